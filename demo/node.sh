#!/usr/bin/env bash
# Nodes for the demo and the tests: systemd on a real ostree deployment, in a container (systemd-nspawn) or as a
# virtual machine (QEMU). `systemctl reboot` inside a node boots the deployment that its boot loader entries name
# first, so booted, staged and rollback deployments are as on a machine of its own.
#
#   node.sh create NAME --caprock BINARY --image oci:DIR[:TAG] --kubeconfig FILE [--labels K=V,...]
#           [--kind container|machine --ports P,P...]
#   node.sh start NAME | stop NAME | delete NAME | status NAME | list
#   node.sh exec NAME COMMAND...
#
# State is in $DEMO_STATE/nodes/NAME: `kind`, `sysroot` or `disk`, `console.log`, `reboots`, and while the node is up
# `pid`, the host's id of its init or of QEMU. Containers share the host's network; a machine finds there, at the
# same addresses, the ports of the host's loopback that it was created with (`ports`).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

STATE=${DEMO_STATE:-$TARGET/demo/state}
TEMPLATES=$TARGET/demo/templates
STATEROOT=debian
SELF=$ROOT/demo/node.sh

usage() {
    sed -n '/^#   node.sh/s/^#   /usage: /p' "$SELF" >&2
    exit 2
}

# Sets NODE (folder), SYSROOT and ID (what the host calls the node; no other state folder's node has it), and
# loads what its kind needs.
use_node() {
    NAME=$1
    [[ $NAME =~ ^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$ ]] ||
        die "\`$NAME\` is no node name: use lower-case letters, digits and inner hyphens"
    NODE=$STATE/nodes/$NAME
    SYSROOT=$NODE/sysroot
    ID=caprock-$(printf %s "$STATE" | sha256sum | cut -c1-6)-$NAME
    use_kind "$(cat "$NODE/kind" 2>/dev/null || echo container)"
}

# What differs between the kinds: how a node is finished, booted, powered off, and how commands get into it.
use_kind() {
    [ -f "$ROOT/demo/nodes/$1.sh" ] || usage
    # shellcheck source=/dev/null
    . "$ROOT/demo/nodes/$1.sh"
}

must_exist() { [ -f "$NODE/kind" ] || die "there is no node \`$NAME\` in $STATE; see \`demo/node.sh list\`"; }

host_has_systemd() { [ -d /run/systemd/system ]; }

# The cgroup folders of this node where the host has no systemd to make a unit for it: one in each
# hierarchy that systemd inside a node uses. Without its own, nodes would share one and fight over it.
cgroups() {
    local top
    if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        printf '%s\n' "/sys/fs/cgroup/$ID"
    else
        for top in systemd unified; do
            [ ! -d "/sys/fs/cgroup/$top" ] || printf '%s\n' "/sys/fs/cgroup/$top/$ID"
        done
    fi
}

# --- create ------------------------------------------------------------------------------------

# use_template CAPROCK IMAGE: a sysroot with the image deployed, made once and copied for each node. It is kept
# between runs; another image or another importer makes another one, which replaces it.
use_template() {
    local partial old began=$SECONDS
    mkdir -p "$TEMPLATES"
    exec 8>"$TEMPLATES/lock"
    flock 8
    TEMPLATE=$TEMPLATES/$({ printf '%s\n' "$2"; sha256sum <"$1"; } | sha256sum | cut -c1-16)
    if [ ! -d "$TEMPLATE" ]; then
        note "deploying the base image into a template"
        partial=$TEMPLATES/partial
        for old in "$TEMPLATES"/*/; do remove_sysroots "$old"; done
        "$1" node import --sysroot "$partial" --stateroot "$STATEROOT" "$2"
        # It stays after the run, and whoever removes the checkout must not trip over it.
        make_removable "$partial"
        mv "$partial" "$TEMPLATE"
        note "template ready in $((SECONDS - began)) s"
    fi
}

# default_entry DIR: the boot loader's entry of a /boot that boots next, the one with the highest version, as boot
# loaders sort them.
default_entry() {
    grep -H '^version ' "$1"/loader/entries/*.conf | sort -t' ' -k2,2rn | head -n1 | cut -d: -f1
}

# The deployment that boots next, of a sysroot that is a folder.
default_deployment() {
    readlink -f "$SYSROOT$(sed -n 's/^options.*ostree=\([^ ]*\).*/\1/p' "$(default_entry "$SYSROOT/boot")")"
}

create() {
    local image='' caprock='' kubeconfig='' labels='' kind=container ports='' etc var unit
    use_node "${1:?}"
    shift
    while [ $# -gt 1 ]; do
        case $1 in
            --image) image=$2 ;;
            --caprock) caprock=$2 ;;
            --kubeconfig) kubeconfig=$2 ;;
            --labels) labels=$2 ;;
            --kind) kind=$2 ;;
            --ports) ports=$2 ;;
            *) usage ;;
        esac
        shift 2
    done
    if [ $# -ne 0 ] || [ -z "$image" ] || [ -z "$caprock" ] || [ -z "$kubeconfig" ]; then usage; fi
    [ ! -e "$NODE" ] || die "node \`$NAME\` exists; \`demo/node.sh delete $NAME\` removes it"
    use_kind "$kind"
    use_template "$caprock" "$image"
    mkdir -p "$NODE"
    cp -a --reflink=auto "$TEMPLATE" "$SYSROOT"
    # Until here nobody may replace the template.
    flock -u 8
    echo 0 >"$NODE/reboots"
    echo "$kind" >"$NODE/kind"
    # What differs between machines: the agent, its credential and what it registers the node with.
    etc=$(default_deployment)/etc
    var=$SYSROOT/ostree/deploy/$STATEROOT/var
    install -D -m 0755 "$caprock" "$var/usrlocal/bin/caprock"
    # Without it the journal of the first boot is kept in memory, and gone after the reboot.
    mkdir -p "$var/log/journal"
    install -D -m 0600 "$kubeconfig" "$etc/caprock/kubeconfig"
    # A machine that joins with a token is told its labels by the server.
    if [ -n "$labels" ]; then
        printf 'CAPROCK_AGENT_ARGS=--register-node --node-labels %s\n' "$labels" >"$etc/caprock/agent.env"
    fi
    "$caprock" node units "$etc/systemd/system"
    for unit in "$etc"/systemd/system/caprock-*.service "$etc"/systemd/system/caprock-*.timer; do
        systemctl --root="${etc%/etc}" --quiet enable "$(basename "$unit")"
    done
    finish_create "$etc" "$ports"
    note "node $NAME created"
}

# --- run ---------------------------------------------------------------------------------------

# True while the loop that reboots the node runs: it holds the lock as long as it lives.
supervised() { ! flock -n "$NODE/lock" true; }

# Prints the id of the node's init, or of QEMU, when the node is up. The cgroup tells a node from a reused id.
leader() {
    local pid
    pid=$(cat "$NODE/pid" 2>/dev/null) || return 1
    grep -qsE "/${ID}([./]|\$)" "/proc/$pid/cgroup" && printf '%s\n' "$pid"
}

# Runs in the background as long as the node is meant to be up.
supervise() {
    local top running code
    use_node "$1"
    exec 9>"$NODE/lock"
    flock -w 2 9 || die "node \`$NAME\` runs already"
    trap 'touch "$NODE/stop"; signal_power_off' TERM INT
    if ! host_has_systemd; then
        for top in $(cgroups); do
            mkdir -p "$top"
            echo $$ >"$top/cgroup.procs"
        done
    fi
    while [ ! -e "$NODE/stop" ]; do
        boot &
        running=$!
        record_leader "$running"
        code=0
        wait "$running" || code=$?
        # A trapped signal ends `wait` early; the node is still going down then.
        while kill -0 "$running" 2>/dev/null; do
            code=0
            wait "$running" || code=$?
        done
        rm -f "$NODE/pid"
        wants_reboot "$code" || break
        echo $(($(cat "$NODE/reboots") + 1)) >"$NODE/reboots.new"
        mv "$NODE/reboots.new" "$NODE/reboots"
    done
    echo "supervisor: node ended with status $code" >>"$NODE/console.log"
}

start() {
    use_node "$1"
    must_exist
    ! supervised || die "node \`$NAME\` runs already"
    kill_all
    rm -f "$NODE/stop" "$NODE/pid"
    if host_has_systemd; then
        systemd-run --quiet --collect --unit="$ID" --property=Delegate=yes --property=KillMode=mixed \
            --setenv=DEMO_STATE="$STATE" --setenv=CARGO_TARGET_DIR="$TARGET" "$SELF" supervise "$NAME"
    else
        DEMO_STATE=$STATE setsid "$SELF" supervise "$NAME" </dev/null >>"$NODE/console.log" 2>&1 &
    fi
    poll 60 "node $NAME to start" leader >/dev/null ||
        die "node \`$NAME\` does not start: $(tail -n 3 "$NODE/console.log")"
}

members() {
    local top
    for top in $(cgroups); do
        [ ! -d "$top" ] || find "$top" -name cgroup.procs -exec cat {} + 2>/dev/null
    done | sort -u
}

nothing_left() { [ -z "$(members)" ]; }

# Ends whatever is left of a node, also when its supervisor was killed, and removes its cgroups.
kill_all() {
    local pid top
    if host_has_systemd; then
        systemctl kill --signal=KILL "$ID.service" 2>/dev/null || return 0
        systemctl stop "$ID.service" 2>/dev/null || true
        return
    fi
    for pid in $(members); do kill -KILL "$pid" 2>/dev/null || true; done
    poll 10 "the processes of node $NAME to end" nothing_left || die "processes of node \`$NAME\` cannot be killed"
    for top in $(cgroups); do
        [ ! -d "$top" ] || find "$top" -depth -type d -exec rmdir {} +
    done
}

is_up_or_ended() { leader >/dev/null || ! supervised; }

# run COMMAND...: inside the node; one that reboots is waited for.
run() {
    local pid
    poll 60 "node $NAME to boot" is_up_or_ended || true
    pid=$(leader) || die "node \`$NAME\` is not up"
    run_inside "$pid" "$@"
}

is_down() { ! supervised && ! leader >/dev/null; }

stop() {
    use_node "$1"
    must_exist
    touch "$NODE/stop"
    signal_power_off
    poll 30 "node $NAME to power off" is_down || note "node $NAME does not power off; killing it"
    kill_all
    rm -f "$NODE/pid"
}

# --- look, remove ------------------------------------------------------------------------------

status() {
    local pid=- condition=stopped
    use_node "$1"
    must_exist
    if pid=$(leader); then
        condition=running
        supervised || condition=unsupervised
    elif supervised; then
        condition=rebooting
    fi
    printf '%-16s %-13s %-8s %-8s %s\n' "$NAME" "$condition" "${pid:--}" "$(cat "$NODE/reboots")" "$(next_boot)"
}

list() {
    local dir
    printf '%-16s %-13s %-8s %-8s %s\n' NODE STATE PID REBOOTS 'BOOTS NEXT'
    for dir in "$STATE"/nodes/*/; do
        [ ! -d "$dir" ] || (status "$(basename "$dir")")
    done
}

delete() {
    use_node "$1"
    [ -e "$NODE" ] || return 0
    if [ -f "$NODE/kind" ]; then end; fi
    remove_sysroots "$NODE"
    rm -rf "/run/systemd/nspawn/propagate/$ID"
}

need_root
[ $# -ge 1 ] || usage
verb=$1
shift
case $verb in
    list) list ;;
    create | start | stop | delete | status | supervise)
        [ $# -ge 1 ] || usage
        "$verb" "$@"
        ;;
    exec)
        [ $# -ge 2 ] || usage
        use_node "$1"
        shift
        must_exist
        run "$@"
        ;;
    *) usage ;;
esac
