# The agent as systemd's service: confined, small, says what it does; started again when it stands still or is killed in
# the middle of live changes; replaced by another program, on the spot and by an image that brings its own.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

agent_property() { node exec worker-1 systemctl show --value --property="$1" caprock-agent.service; }
agent_is_new() { [ "$(agent_property MainPID)" != "$1" ] && [ "$(agent_property ActiveState)" = active ]; }
agent_says() { [[ $(agent_property StatusText) == "$1"* ]]; }
# Without the program's text, of which a build for tests has much more.
anonymous_kib() { node exec worker-1 sed -n 's/^RssAnon:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$(agent_property MainPID)/status"; }
program() { node exec worker-1 readlink "/proc/$(agent_property MainPID)/exe"; }
change() {
    machine_config 50-change worker <<YAML
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/example.d/change, mode: 420, contents: {source: "data:,$1"}}
  systemd:
    units:
      - name: change.service
        enabled: true
        contents: |
          [Unit]
          Description=Change $1
          [Service]
          ExecStart=/bin/sleep infinity
          [Install]
          WantedBy=multi-user.target
YAML
}
changed() {
    [ "$(node exec worker-1 cat /etc/example.d/change)" = "$1" ] &&
        [ "$(node exec worker-1 systemctl show --value --property=Description change.service)" = "Change $1" ] &&
        node exec worker-1 systemctl is-active --quiet change.service
}
is_proven() { changed "$1" && pool_is_updated worker 1 && agent_says runs; }

with_nodes worker-1
step "confined, small, and says what it does"
node exec worker-1 systemd-analyze security --no-pager --threshold=45 caprock-agent.service >&2
expect 60 "the agent to say what it runs" agent_says runs
[ "$(anonymous_kib)" -le 20480 ] || die "the agent has $(anonymous_kib) KiB of its own"
note "$(anonymous_kib) KiB of its own"

step "killed in the middle of live changes"
SEED=${SEED:-$(date +%s)}
note "SEED=$SEED"
RANDOM=$SEED
for n in 1 2 3 4 5 6; do
    change "$n"
    sleep "$((RANDOM % 2)).$((RANDOM % 10))"
    kill_agent worker-1 || note "it was starting"
done
expect 300 "the last change" is_proven 6

step "it stands still"
node exec worker-1 sh -c 'mkdir -p /run/systemd/system/caprock-agent.service.d
    printf "[Service]\nWatchdogSec=3s\n" >/run/systemd/system/caprock-agent.service.d/soon.conf
    systemctl daemon-reload && systemctl restart caprock-agent.service'
pid=$(agent_property MainPID)
node exec worker-1 kill -STOP "$pid"
expect 120 "systemd to start it again" agent_is_new "$pid"
node exec worker-1 sh -c 'rm -r /run/systemd/system/caprock-agent.service.d && systemctl daemon-reload'

step "another program in its place"
pid=$(agent_property MainPID)
node exec worker-1 sh -c 'cd /usr/local/bin && cp caprock next && echo >>next && mv next caprock'
change seven
expect 300 "the change" is_proven seven
expect 120 "the new program to take over" agent_is_new "$pid"
equal "the program" "$(program)" /var/usrlocal/bin/caprock

step "an image with an agent of its own"
mkdir "$STATE/context"
cp "$CAPROCK" "$STATE/context/caprock"
strip "$STATE/context/caprock"
cat >"$STATE/context/own.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=/usr/bin/caprock agent --kubeconfig /etc/caprock/kubeconfig $CAPROCK_AGENT_ARGS
UNIT
cat >"$STATE/context/Containerfile" <<CONTAINERFILE
FROM $BASE_IMAGE
COPY caprock /usr/bin/caprock
COPY own.conf /usr/lib/systemd/system/caprock-agent.service.d/own.conf
CONTAINERFILE
"$CAPROCK" build --tag "$REGISTRY/os/debian:own" --push --iidfile "$STATE/iid" --cache-dir "$STATE/cache" \
    --authfile "$DATA/registry-auth.json" --ca-file "$DATA/pki/ca.crt" "$STATE/context"
machine_config 60-image worker <<<"osImageURL: $REGISTRY/os/debian@$(cat "$STATE/iid")"
runs_own() { [ "$(program)" = /usr/bin/caprock ] && pool_is_updated worker 1; }
expect 600 "worker-1 to run the image's agent" runs_own
equal reboots "$(reboots worker-1)" 1
change eight
expect 300 "a change by the image's agent" is_proven eight
