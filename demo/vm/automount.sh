#!/usr/bin/env bash
# Proves examples/automount-ldap on a machine that boots a kernel of its own (`make test-vm`): a plain node is moved into
# pool `worker-automount` and after ONE reboot finds accounts and maps in OpenLDAP through sssd, and mounts homes from
# nfs-ganesha. Then a change of configuration arrives without a build and without a reboot, and so does another bind
# password, which is in a Secret and on the node, and nowhere else.
#
# CAPROCK is the binary to use; VM_ACCEL=kvm uses the processor's help where QEMU can. Everything is in target/demo/state-vm.
set -euo pipefail
DEMO_STATE=${DEMO_STATE:-$(dirname "${BASH_SOURCE[0]}")/../../target/demo/state-vm}
DEMO_STATE=$(realpath -m "$DEMO_STATE")
. "$(dirname "${BASH_SOURCE[0]}")/../cluster.sh"
. "$(dirname "${BASH_SOURCE[0]}")/../walk.sh"
. "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"
. "$(dirname "${BASH_SOURCE[0]}")/directory.sh"
. "$(dirname "${BASH_SOURCE[0]}")/fileserver.sh"
. "$(dirname "${BASH_SOURCE[0]}")/proof.sh"
RECIPE=$STATE/recipe
FAILURE=$TARGET/demo/vm-failure
# A machine in software, on a computer that may be busy: these limits are for what will never come.
BOOTS=1500

# fill_in: the recipe with the values of this run, as its README says.
fill_in() {
    local site=$RECIPE/base/site
    rm -rf "$RECIPE"
    cp -r "$ROOT/examples/automount-ldap" "$RECIPE"
    sed -i "s|^ldap_uri = .*|&:$LDAP_PORT|" "$site/sssd.conf"
    sed -i "s|^ldap_default_authtok = .*|ldap_default_authtok = $(cat "$DIRECTORY/bind-password")|" "$RECIPE/base/secret/bind.conf"
    cp "$DIRECTORY/ca.crt" "$site/ldap-ca.crt"
    # Homes that nobody uses are to go while somebody watches.
    sed -i "s|^expire=.*|expire=--timeout=30|" "$site/values.env"
    # A busy computer, and a processor in software: the machine may take its time.
    sed -i "s|deadline: .*|deadline: 20m|" "$RECIPE/base/rolloutpolicy.yaml"
    sed -i "s|^push-spec=[^/]*|push-spec=$REGISTRY|" "$site/values.env"
}

apply_recipe() {
    # shellcheck disable=SC2016 # shown, not run
    printf '$ kubectl kustomize examples/automount-ldap/debian | kubectl apply -f -\n'
    kubectl kustomize "$RECIPE/debian" >"$STATE/automount.yaml"
    kubectl apply -f "$STATE/automount.yaml"
}

stop_servers() {
    stop_in_lab "$DIRECTORY"
    stop_in_lab "$FILESERVER"
}

# What a person needs to see why, into one folder; the ends of it on the terminal.
explain_failure() {
    mkdir -p "$FAILURE"
    explain "$FAILURE/cluster.log"
    cp "$STATE/nodes/worker-1/console.log" "$FAILURE/console.log" || true
    cp "$DIRECTORY/log" "$FAILURE/slapd.log" || true
    cp "$FILESERVER/ganesha.log" "$FAILURE/ganesha.log" || true
    cp "$STATE/serve.log" "$FAILURE/serve.log" || true
    note "the agent's last lines:"
    grep -a 'caprock\[' "$FAILURE/console.log" | tail -n 15 >&2 || true
    note "the end of the machine's console:"
    tail -n 25 "$FAILURE/console.log" >&2 || true
    note "everything is in $FAILURE"
}

at_exit() {
    local code=$?
    trap - EXIT INT TERM
    [ -z "${WATCHER:-}" ] || kill "$WATCHER" 2>/dev/null || true
    if [ "$code" -ne 0 ] && [ -d "$STATE" ]; then explain_failure 2>&1 || true; fi
    if [ "$code" -ne 0 ] || [ -z "${KEEP:-}" ]; then
        step "removing machine, servers and cluster"
        stop_servers
        remove_state || code=1
    fi
    exit "$code"
}

# The process of another run, if there is one: not by a lock, which the servers of a killed run would keep.
other_run() {
    local pid
    pid=$(cat "$STATE/run.pid" 2>/dev/null) || return 1
    [ "$pid" != $$ ] && grep -qsa 'vm/automount\.sh' "/proc/$pid/cmdline" && printf '%s\n' "$pid"
}

play() {
    use_base_image
    lab_is_there || die "QEMU and the servers are not there; \`demo/deps.sh vm\` gets them"
    PATH=$(dirname "$CAPROCK"):$PATH
    ! other_run >/dev/null || die "another run is under way, process $(other_run)"
    # Also what a run left that was killed.
    stop_servers
    remove_state
    rm -rf "$FAILURE"
    mkdir -p "$STATE"
    echo $$ >"$STATE/run.pid"
    trap at_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    begin servers "starting OpenLDAP, nfs-ganesha and caprock serve"
    start_fileserver
    start_directory "-port=$NFS_PORT nfs.example.com:/exports/home"
    note "ldaps on 127.0.0.1:$LDAP_PORT, NFSv4 on 127.0.0.1:$NFS_PORT; the machine calls this host 10.0.2.2"
    start_server
    push_base_image
    example worker/machineconfigpool.yaml worker/machineconfigs.yaml
    let_core_in

    begin machine "booting worker-1: its own kernel, a plain image; the layered image is built meanwhile"
    HOST_NAMES='ldap.example.com nfs.example.com' add_node worker-1 machine
    fill_in
    apply_recipe
    watch_until 900 machineosbuild "the build of the layered image" build_has_ended
    poll "$BOOTS" "worker-1 to report as up to date" pool_is_updated worker 1 || die "worker-1 did not join pool worker"
    say kubectl get nodes
    prove_plain

    begin reboot "moving worker-1 to pool $POOL"
    say kubectl label node worker-1 "node-role.kubernetes.io/$POOL="
    poll 120 "worker-1 to count in pool $POOL" node_has_moved || die "worker-1 is not in pool $POOL"
    say caprock plan
    say kubectl patch "mcp/$POOL" --type merge --patch '{"spec":{"paused":false}}'
    watch_until "$BOOTS" mcp "worker-1 to be updated" worker_is_updated

    begin proof "looking at what came up after one reboot"
    prove_one_reboot
    prove_lookups
    prove_secret
    prove_mounts
    prove_expiry

    begin change "changing sssd's configuration"
    prove_live_change

    begin rotation "another bind password"
    prove_rotation
    finish
    print_times
}

need_root
case ${1:-play} in
    play) play ;;
    stop)
        stop_servers
        remove_state
        ;;
    *) die "usage: demo/vm/automount.sh [stop]" ;;
esac
