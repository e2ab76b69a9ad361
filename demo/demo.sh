#!/usr/bin/env bash
# Plays the walk-through on this machine: `caprock serve`, two real nodes, one layered image, one reboot each.
#
#   demo.sh          plays it and leaves nothing behind but target/demo/summary.json
#   demo.sh stop     ends and removes what `make demo KEEP=1` left running
#
# CAPROCK is the binary to use; default: the release build. KEEP=1 leaves everything running. NODE=vm makes worker-1 a
# virtual machine that boots its own kernel; both nodes are containers otherwise.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
. "$(dirname "${BASH_SOURCE[0]}")/walk.sh"
SUMMARY=$TARGET/demo/summary.json
HOME_OF_DALE=/var/mnt/home/dale
case ${NODE:-} in
    '') KIND=container BOOTS=600 ;;
    vm) KIND=machine BOOTS=1500 ;;
    *) die "NODE=$NODE: \`vm\` was expected, or nothing" ;;
esac

create() {
    printf '$ kubectl create -f examples/%s\n' "$1"
    example "$1"
}

# prove NODE: autofs runs, and the first access mounts.
prove() {
    autofs_is_active "$1" || die "autofs.service is not active on $1"
    ! is_mounted "$1" "$HOME_OF_DALE" || die "$HOME_OF_DALE is mounted on $1 before the first access"
    inside "$1" systemctl is-active autofs.service
    inside "$1" ls -ld "$HOME_OF_DALE"
    is_mounted "$1" "$HOME_OF_DALE" || die "$HOME_OF_DALE is not in the mount table of $1 after the first access"
    inside "$1" grep -w "$HOME_OF_DALE" /proc/1/mountinfo
    [ "$(reboots "$1")" = 1 ] || die "$1 has rebooted $(reboots "$1") times, not once"
}

node_summary() {
    local active=false mounted=false
    if autofs_is_active "$1"; then active=true; fi
    if is_mounted "$1" "$HOME_OF_DALE"; then mounted=true; fi
    jq -n --arg name "$1" --argjson pid "$(cat "$STATE/nodes/$1/pid")" --argjson reboots "$(reboots "$1")" \
        --arg image "$(annotation "$1" currentImage)" --argjson active $active --argjson mounted $mounted \
        '{($name): {pid: $pid, reboots: $reboots, image: $image, automount: {active: $active, mounted: $mounted}}}'
}

write_summary() {
    local phase seconds='{}'
    for phase in "${PHASES[@]}"; do
        seconds=$(jq -c --arg p "$phase" --argjson s "${SECONDS_OF[$phase]}" '. + {($p): $s}' <<<"$seconds")
    done
    {
        node_summary worker-1
        node_summary worker-2
    } | jq -s --arg kubeconfig "$KUBECONFIG" --argjson seconds "$seconds" \
        --argjson builds "$(builds)" \
        '{kubeconfig: $kubeconfig, builds: $builds, nodes: add, seconds: $seconds}' >"$SUMMARY.new"
    mv "$SUMMARY.new" "$SUMMARY"
}

print_result() {
    print_times
    printf '\nbuilds: %s, reboots: %s; %s\n' "$(jq .builds "$SUMMARY")" \
        "$(jq -r '[.nodes | to_entries[] | "\(.key) \(.value.reboots)"] | join(", ")' "$SUMMARY")" "$SUMMARY"
}

print_how_to_use() {
    cat <<END

Everything is still running:
  export KUBECONFIG=$KUBECONFIG PATH=$(dirname "$CAPROCK"):$TOOLS:\$PATH
  kubectl get nodes,mcp,machineosbuild
  caprock status
  demo/node.sh list                              # the nodes
  demo/node.sh exec worker-1 bash                # a shell in one of them
  $STATE/serve.log
Stop and remove it:
  make demo-stop
END
}

at_exit() {
    local code=$?
    trap - EXIT INT TERM
    [ -z "${WATCHER:-}" ] || kill "$WATCHER" 2>/dev/null || true
    if [ "$code" -ne 0 ] && [ -f "$KUBECONFIG" ]; then explain "$TARGET/demo/failure.log"; fi
    if [ "$code" -ne 0 ] || [ -z "${KEEP:-}" ]; then
        step "removing nodes and server"
        remove_state || code=1
    fi
    exit "$code"
}

play() {
    use_base_image
    PATH=$(dirname "$CAPROCK"):$PATH
    if [ -d "$STATE" ]; then
        step "removing what an earlier run left"
        remove_state
    fi
    rm -f "$SUMMARY"
    trap at_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    begin serve "starting caprock serve"
    start_server
    push_base_image

    begin nodes "booting worker-1 and worker-2"
    create worker/machineconfigpool.yaml
    create worker/machineconfigs.yaml
    if [ "$KIND" = machine ]; then let_core_in; fi
    add_node worker-1 "$KIND"
    add_node worker-2
    poll "$BOOTS" "both nodes to report as up to date" pool_is_updated worker 2 || die "the nodes did not join pool worker"
    say kubectl get nodes

    begin build "building the layered image"
    create automount/machineconfigpool.yaml
    create automount/machineconfigs.yaml
    create automount/machineosconfig.yaml
    watch_until 600 machineosbuild "the build of the layered image" build_has_ended

    begin worker-1 "moving worker-1 to pool $POOL"
    say kubectl label node worker-1 node-role.kubernetes.io/worker- "node-role.kubernetes.io/$POOL="
    poll 120 "worker-1 to count in pool $POOL" node_has_moved || die "worker-1 is not in pool $POOL"
    say caprock plan
    say kubectl patch "mcp/$POOL" --type merge --patch '{"spec":{"paused":false}}'
    watch_until "$BOOTS" mcp "worker-1 to be updated" pool_is_updated "$POOL" 1
    say kubectl get machineosbuild
    prove worker-1

    begin worker-2 "worker-2 follows, with no further build"
    say kubectl label node worker-2 node-role.kubernetes.io/worker- "node-role.kubernetes.io/$POOL="
    watch_until 600 mcp "worker-2 to be updated" pool_is_updated "$POOL" 2
    prove worker-2
    say kubectl get nodes,mcp,machineosbuild
    finish

    write_summary
    [ "$(jq .builds "$SUMMARY")" = 1 ] || die "there were $(jq .builds "$SUMMARY") builds, not one"
    print_result
    if [ -n "${KEEP:-}" ]; then print_how_to_use; fi
}

need_root
case ${1:-play} in
    play) play ;;
    stop)
        step "removing nodes and server"
        remove_state
        ;;
    *) die "usage: demo/demo.sh [stop]" ;;
esac
