#!/usr/bin/env bash
# Upgrades Caprock under running nodes: an older program's agents under newer controllers, a pool of both kinds of agents
# through a live change and an image.
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
# tell_all TEXT: a live change of every node, in whichever pool.
tell_all() {
    local name
    motd "$1"
    for name in old-1 old-2 new-1; do expect 300 "the motd \`$1\` on $name" motd_is "$name" "$1"; done
}

CAPROCK=$OLD with_nodes old-1 old-2
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
    equal "reboots of $name" "$(reboots "$name")" 0
done

step "a live change of both kinds of agents"
tell_all first
expect 300 "all nodes to be updated" pool_is_updated worker 3

step "an image for both kinds of agents"
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
move old-1 "$POOL"
move new-1 "$POOL"
unpause "$POOL"
expect 900 "old-1 and new-1 to be updated" pool_is_updated "$POOL" 2
equal builds "$(builds)" 1
for name in old-1 new-1; do
    equal "reboots of $name" "$(reboots "$name")" 1
    autofs_is_active "$name" || die "autofs.service is not active on $name"
done
note "both kinds of agents have followed the newer controllers"
