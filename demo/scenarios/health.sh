# A probe that fails after a reboot takes the node back, and so does an agent that never starts; the reason is kept.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

# unwell ARGUMENTS: a MachineConfig whose file the probe does not like.
unwell() {
    machine_config 50-unwell worker <<YAML
kernelArguments: [$1]
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/unwell, mode: 420, contents: {source: "data:,unwell"}}
YAML
}

is_in_service() { [ -z "$(field node/worker-1 .spec.unschedulable)" ]; }
degraded_because() { state_is worker-1 Degraded && annotation worker-1 reason | grep -qF -- "$1"; }
is_well() { state_is worker-1 Done && pool_is_updated worker 1 && is_in_service; }
has_rebooted() { [ "$(reboots worker-1)" -ge "$1" ]; }

# given_up REBOOTS WHY: the node is as it was, in service, and says why.
given_up() {
    expect 300 "worker-1 to be in service" is_in_service
    degraded_because "$2" || die "the reason is gone: $(annotation worker-1 reason)"
    equal "config of worker-1" "$(annotation worker-1 currentConfig)" "$version"
    node exec worker-1 test ! -e /etc/unwell || die "/etc/unwell is still there"
    equal reboots "$(reboots worker-1)" "$1"
    kubectl delete mc 50-unwell
    expect 300 "worker-1 to be well" is_well
}

with_nodes worker-1
rollout_policy worker <<'YAML'
health:
  deadline: 10s
  probes:
    - {name: no-sign-of-illness, command: {argv: [/usr/bin/test, "!", -e, /etc/unwell]}}
YAML
version=$(annotation worker-1 currentConfig)

step "a probe fails after a reboot"
unwell unwell=1
expect 600 "worker-1 to come back" has_rebooted 2
expect 300 "worker-1 to say why it went back" degraded_because no-sign-of-illness
given_up 2 no-sign-of-illness

step "the agent of a new deployment never starts"
machine_config 50-unwell worker <<'YAML'
kernelArguments: [unwell=2]
config:
  ignition: {version: 3.4.0}
  systemd:
    units:
      - name: caprock-agent.service
        dropins:
          - {name: 50-broken.conf, contents: "[Service]\nExecStart=\nExecStart=/bin/false\n"}
YAML
expect 600 "worker-1 to reboot into it" has_rebooted 3
# Nobody waits for ten minutes here; what counts is who acts when the time is over.
node exec worker-1 sed -i 's/^deadline=.*/deadline=20/' /var/lib/caprock/trial
expect 300 "worker-1 to come back by itself" has_rebooted 4
why='was not found well within 20 seconds of its boot'
expect 300 "worker-1 to say why it went back" degraded_because "$why"
given_up 4 "$why"

step "drift is seen after a way back too"
node exec worker-1 sh -c 'echo by hand >/etc/motd'
# shellcheck disable=SC2016 # words of a message
expect 300 "worker-1 to say what differs" degraded_because '`/etc/motd` has other content'
