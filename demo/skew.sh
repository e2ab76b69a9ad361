#!/usr/bin/env bash
# Upgrades Caprock under running nodes, and takes it back: new agents under older controllers and older agents under newer
# ones, agents exchanged in the middle of an update, a pool of both kinds through live changes, a Secret's file and an image.
#
#   demo/skew.sh OLD      OLD is the older `caprock`; CAPROCK the newer, default: the release build
#
# No part of `make test`, which has one program only.
set -euo pipefail
[ $# -eq 1 ] || {
    sed -n '/^#   demo/s/^#   /usage: /p' "$0" >&2
    exit 2
}
OLD=$(realpath -- "$1")
# shellcheck source=demo/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
need_root
export DEMO_STATE=${DEMO_STATE:-$TARGET/demo/state-skew}
mkdir -p "$TARGET/demo/scenarios"
# shellcheck source=demo/scenario.sh
. "$ROOT/demo/scenario.sh"
NEW=$CAPROCK

motd() {
    kubectl patch mc/00-worker --type json \
        --patch "[{\"op\":\"replace\",\"path\":\"/spec/config/storage/files/0/contents/source\",\"value\":\"data:,$1\"}]"
}
motd_is() { [ "$(node exec "$1" cat /etc/motd)" = "$2" ]; }
rendered() { kubectl get mc -o name | grep /rendered- | sort; }
# tell_all TEXT NODE...: a live change of every node, in whichever pool.
tell_all() {
    local name text=$1
    shift
    motd "$text"
    for name in "$@"; do expect 300 "the motd \`$text\` on $name" motd_is "$name" "$text"; done
}

# agent NODE PROGRAM: another agent on what the one before left there.
agent() {
    install -m 0755 "$2" "$STATE/nodes/$1/sysroot/ostree/deploy/debian/var/usrlocal/bin/caprock"
    node exec "$1" systemctl restart caprock-agent.service
}
in_state() { node exec "$1" cat "/var/lib/caprock/$2" 2>/dev/null; }
is_on_trial() { has_rebooted "$1" "$2" && in_state "$1" trial >/dev/null; }
has_rebooted() { [ "$(reboots "$1")" -eq "$2" ]; }
awaits_reboot() { in_state "$1" journal.json | grep -q '"step":"reboot"'; }
takes_or_tells() {
    if state_is "$1" Done; then node exec "$1" test -e /etc/skew; else annotation "$1" reason | grep -qF "cannot be used"; fi
}

CAPROCK=$OLD with_nodes old-1 old-2

step "a new agent on an older one's state, under older controllers"
agent old-2 "$NEW"
tell_all first old-1 old-2
expect 300 "both nodes to be updated" pool_is_updated worker 2
for name in old-1 old-2; do equal "reboots of $name" "$(reboots "$name")" 0; done

step "agents exchanged both ways while their nodes are on trial"
rollout_policy worker <<'YAML'
health:
  deadline: 10m
  probes:
    - {name: ready, command: {argv: [/usr/bin/test, -e, /run/ready]}}
YAML
kubectl patch mcp/worker --type merge --patch '{"spec":{"maxUnavailable":2}}'
for name in old-1 old-2; do node exec "$name" touch /run/ready; done
machine_config 50-reboot worker <<'YAML'
kernelArguments: [skew=1]
config:
  ignition: {version: 3.4.0}
YAML
for name in old-1 old-2; do expect 600 "$name to be on trial" is_on_trial "$name" 1; done
agent old-1 "$NEW"
agent old-2 "$OLD"
for name in old-1 old-2; do
    expect 300 "$name to be on trial still" is_on_trial "$name" 1
    node exec "$name" touch /run/ready
done
expect 300 "both nodes to be updated" pool_is_updated worker 2
for name in old-1 old-2; do equal "reboots of $name" "$(reboots "$name")" 1; done
kubectl delete rolloutpolicy worker

step "a reboot that one agent has prepared and another asks for"
for name in old-1 old-2; do node exec "$name" systemctl mask --quiet --runtime reboot.target; done
kubectl delete mc 50-reboot
for name in old-1 old-2; do expect 300 "$name to await its reboot" awaits_reboot "$name"; done
agent old-1 "$OLD"
agent old-2 "$NEW"
for name in old-1 old-2; do node exec "$name" systemctl unmask --quiet --runtime reboot.target; done
for name in old-1 old-2; do expect 300 "$name to reboot" has_rebooted "$name" 2; done
expect 300 "both nodes to be updated" pool_is_updated worker 2
agent old-2 "$OLD"
before=$(rendered)
config=$(annotation old-1 currentConfig)

step "newer controllers"
stop_server
start_server
CAPROCK=$NEW add_node new-1
expect 300 "new-1 in pool worker" pool_is_updated worker 3
equal "rendered configs after the upgrade" "$(rendered)" "$before"
for name in old-1 old-2; do
    equal "config of $name" "$(annotation "$name" currentConfig)" "$config"
    equal "reboots of $name" "$(reboots "$name")" 2
done

step "a live change of both kinds of agents"
tell_all second old-1 old-2 new-1
expect 300 "all nodes to be updated" pool_is_updated worker 3

step "a file from a Secret, which older agents may not know"
kubectl --namespace openshift-machine-config-operator create secret generic skew --from-literal=word=secret
kubectl --namespace openshift-machine-config-operator label secret skew caprock.dev/node-files=true
machine_config 50-secret worker <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/skew, mode: 384, contents: {source: "secret:skew/word"}}
YAML
kubectl patch mcp/worker --type merge --patch '{"spec":{"maxUnavailable":3}}'
for name in old-1 old-2 new-1; do expect 300 "$name to have the file or to say why not" takes_or_tells "$name"; done
node exec new-1 test -e /etc/skew || die "new-1 has not the file: $(annotation new-1 reason)"
for name in old-1 old-2; do motd_is "$name" second || die "$name has another motd"; done
agent old-2 "$NEW"
expect 300 "old-2 to have the file" node exec old-2 test -e /etc/skew
agent old-2 "$OLD"
expect 300 "the older agent to take it or to say why not" takes_or_tells old-2
node exec old-2 test -e /etc/skew || die "old-2 lost the file"
agent old-2 "$NEW"
kubectl delete mc 50-secret
expect 300 "all nodes to be updated" pool_is_updated worker 3
for name in old-1 old-2; do
    ! node exec "$name" test -e /etc/skew || die "$name still has the file"
    equal "reboots of $name" "$(reboots "$name")" 2
done

step "an image for both kinds of agents"
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
move old-1 "$POOL"
move new-1 "$POOL"
unpause "$POOL"
expect 900 "old-1 and new-1 to be updated" pool_is_updated "$POOL" 2
equal builds "$(builds)" 1
equal "reboots of old-1" "$(reboots old-1)" 3
equal "reboots of new-1" "$(reboots new-1)" 1
for name in old-1 new-1; do
    autofs_is_active "$name" || die "autofs.service is not active on $name"
done
note "both kinds of agents have followed both kinds of controllers"
