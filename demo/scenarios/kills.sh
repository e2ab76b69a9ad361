# Server and agent are killed while they build and roll out. Started again, they come to the same end:
# one build, one reboot.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

is_building() { [ "$(kubectl get machineosbuild -o jsonpath='{.items[*].status.conditions[?(@.type=="Building")].status}')" = True ]; }
has_new_deployment() { [ "$(node exec worker-1 ostree admin status | grep -c 'origin refspec')" -gt 1 ]; }

with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
expect 300 "the build to begin" is_building
note "killing the server in the middle of the build"
kill_server
start_server
expect 600 "the build to succeed" build_says Succeeded

move worker-1 "$POOL"
unpause "$POOL"
expect 120 "worker-1 to begin" state_is worker-1 Working
note "killing the agent as soon as it works"
kill_agent worker-1
note "killing the server in the middle of the roll-out"
kill_server
start_server
if poll 30 "worker-1 to have a new deployment" has_new_deployment && [ "$(reboots worker-1)" = 0 ]; then
    note "killing the agent between deployment and reboot"
    kill_agent worker-1 || note "the node was quicker"
fi
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
equal builds "$(builds)" 1
equal reboots "$(reboots worker-1)" 1
autofs_is_active worker-1 || die "autofs.service is not active"
