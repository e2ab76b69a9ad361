# What every scenario begins with: an empty cluster with the given nodes in pool worker, and its removal at the end.
# shellcheck shell=bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

end() {
    local code=$?
    trap - EXIT
    if [ "$code" -ne 0 ]; then explain "$TARGET/demo/scenarios/$(basename "$0" .sh).state"; fi
    remove_state || code=1
    exit "$code"
}

# with_nodes NAME...: starts everything and waits until the nodes are up to date in pool worker. With NODES_DISK, a size,
# the nodes have a disk of their own.
with_nodes() {
    local name
    use_base_image
    remove_state
    trap end EXIT
    trap 'exit 143' INT TERM
    if [ -n "${NODES_DISK:-}" ]; then
        mkdir -p "$STATE/nodes"
        truncate --size="$NODES_DISK" "$STATE/disk"
        mkfs.ext4 -q -m 0 "$STATE/disk"
        mount -o loop "$STATE/disk" "$STATE/nodes"
        rmdir "$STATE/nodes/lost+found"
    fi
    start_server
    push_base_image
    example worker/machineconfigpool.yaml worker/machineconfigs.yaml
    for name in "$@"; do add_node "$name"; done
    expect 300 "nodes in pool worker" pool_is_updated worker $#
}

# expect SECONDS WHAT COMMAND...: COMMAND succeeds in time.
expect() { poll "$@" || die "$2: not within $1 s"; }

# equal WHAT SEEN WANTED
equal() { [ "$2" = "$3" ] || die "$1: $2, where $3 was expected"; }

build_says() { ended_builds | grep -F "$1"; }

# SIGKILL to the agent; systemd starts it again.
kill_agent() { node exec "$1" systemctl kill --kill-whom=main --signal=KILL caprock-agent.service; }

kill_server() {
    kill -KILL "$(server_pid)"
    expect 10 "the server to be gone" server_is_down
}

state_is() { [ "$(annotation "$1" state)" = "$2" ]; }

booted() { node exec "$1" ostree admin status | sed -n 's/^\* //p'; }

# machine_config NAME ROLE: applies a MachineConfig with the spec on stdin, YAML that begins in the first column.
machine_config() {
    with_spec 'apiVersion: machineconfiguration.openshift.io/v1\nkind: MachineConfig\nmetadata:\n  name: %s\n  labels: {machineconfiguration.openshift.io/role: %s}\n' "$1" "$2" |
        kubectl apply -f -
}

# rollout_policy POOL: applies the RolloutPolicy of a pool with the rest of its spec on stdin, in the same way.
rollout_policy() {
    { printf 'pools: [{name: %s}]\n' "$1"; cat; } |
        with_spec 'apiVersion: caprock.dev/v1alpha1\nkind: RolloutPolicy\nmetadata: {name: %s}\n' "$1" |
        kubectl apply -f -
}

# with_spec FORMAT ARGUMENT...: prints the head of an object, and below it the spec on stdin.
with_spec() {
    # shellcheck disable=SC2059 # the format is the caller's
    printf "$@"
    printf 'spec:\n'
    sed 's/^/  /'
}
