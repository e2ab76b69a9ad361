# Server and agent are killed again and again, at no chosen moment, from the first manifest to the updated node.
# SEED repeats a run's rhythm. The kills end after a while, and what is left must come to the same end by itself.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

SEED=${SEED:-$(date +%s)}
note "SEED=$SEED"
RANDOM=$SEED

with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
moved=
for round in $(seq 12); do
    sleep "$((RANDOM % 3)).$((RANDOM % 10))"
    if [ -z "$moved" ] && [ "$round" -gt 4 ]; then
        moved=yes
        move worker-1 "$POOL"
        unpause "$POOL"
    elif [ "$((RANDOM % 2))" = 0 ]; then
        note "round $round: killing the server"
        kill_server
        start_server
    else
        note "round $round: killing the agent"
        kill_agent worker-1 || note "the node is not up"
    fi
done
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
equal builds "$(builds)" 1
equal reboots "$(reboots worker-1)" 1
autofs_is_active worker-1 || die "autofs.service is not active"
