# One `caprock serve` and its nodes in one state folder: start, stop, look, clean up. Sourced by the
# demo and by the node scenarios. DEMO_STATE names another folder, CAPROCK another binary.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

CAPROCK=${CAPROCK:-$TARGET/release/caprock}
STATE=${DEMO_STATE:-$TARGET/demo/state}
export DEMO_STATE=$STATE
DATA=$STATE/serve
# The pool of examples/automount.
: "${POOL:=worker-automount}"
export KUBECONFIG=$DATA/kubeconfig

node() { "$ROOT/demo/node.sh" "$@"; }

# --- server --------------------------------------------------------------------------------------

# The server's process, if it runs. Its command line tells it from a reused id.
server_pid() {
    local pid
    pid=$(cat "$STATE/serve.pid" 2>/dev/null) || return 1
    grep -qsa -- "$DATA" "/proc/$pid/cmdline" && printf '%s\n' "$pid"
}

server_is_down() { ! server_pid >/dev/null; }

# True when it is ready; a server that died meanwhile ends the wait. Its command line does not tell yet: the process
# may still be on its way from this script to the server's program.
server_is_ready() {
    [ -s "$KUBECONFIG" ] && return 0
    kill -0 "$(cat "$STATE/serve.pid")" 2>/dev/null ||
        die "\`caprock serve\` ended: $(tail -n 5 "$STATE/serve.log")"
    return 1
}

# use_base_image: makes it, or finds it in the cache.
use_base_image() {
    BASE_LAYOUT=$("$ROOT/demo/base-image.sh")
    BASE_DIGEST=$(jq -r '.manifests[0].digest' "$BASE_LAYOUT/index.json")
}

# start_server: starts it, or starts it again on the same folder and ports.
start_server() {
    [ -x "$CAPROCK" ] || die "there is no $CAPROCK; \`make build\` makes it"
    mkdir -p "$STATE"
    if [ ! -f "$STATE/ports" ]; then
        printf 'api %s\nregistry %s\n' "$(free_port 6443)" "$(free_port 5000)" >"$STATE/ports"
    fi
    API_PORT=$(sed -n 's/^api //p' "$STATE/ports")
    REGISTRY=127.0.0.1:$(sed -n 's/^registry //p' "$STATE/ports")
    BASE_IMAGE=$REGISTRY/os/debian@$BASE_DIGEST
    # What a killed server left would say "ready" before the new one is.
    rm -f "$KUBECONFIG"
    setsid "$CAPROCK" serve --data-dir "$DATA" --listen "127.0.0.1:$API_PORT" \
        --registry-listen "$REGISTRY" --base-image "$BASE_IMAGE" </dev/null >>"$STATE/serve.log" 2>&1 &
    echo $! >"$STATE/serve.pid"
    poll 120 "caprock serve to be ready" server_is_ready || die "\`caprock serve\` is not ready; see $STATE/serve.log"
}

stop_server() {
    local pid
    pid=$(server_pid) || return 0
    kill -TERM "$pid"
    poll 30 "caprock serve to stop" server_is_down || kill -KILL "$pid"
}

# Pushes the base image; says nothing when the registry has it.
push_base_image() {
    "$CAPROCK" copy "oci:$BASE_LAYOUT:bookworm" "$REGISTRY/os/debian:bookworm" \
        --authfile "$DATA/registry-auth.json" --ca-file "$DATA/pki/ca.crt"
}

# --- nodes ---------------------------------------------------------------------------------------

# add_node NAME [KIND]: creates and boots a node whose agent registers it as a worker.
add_node() {
    (umask 077 && "$CAPROCK" node kubeconfig "$1" --data-dir "$DATA" >"$STATE/$1.kubeconfig")
    node create "$1" --image "oci:$BASE_LAYOUT:bookworm" --caprock "$CAPROCK" \
        --kubeconfig "$STATE/$1.kubeconfig" --labels node-role.kubernetes.io/worker= \
        --kind "${2:-container}" --ports "$API_PORT,${REGISTRY##*:}"
    rm "$STATE/$1.kubeconfig"
    node start "$1"
}

# let_core_in: gives pool worker the key by which commands get into machines.
let_core_in() {
    ssh-keygen -q -t ed25519 -N '' -C "caprock demo" -f "$STATE/ssh-key"
    kubectl create -f - <<END
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfig
metadata:
  name: 99-worker-ssh
  labels: {machineconfiguration.openshift.io/role: worker}
spec:
  config:
    ignition: {version: 3.4.0}
    passwd:
      users:
        - name: core
          sshAuthorizedKeys: ["$(cat "$STATE/ssh-key.pub")"]
END
}

# join_node NAME POOL: creates and boots a machine that nobody knows, with a join token of the pool and nothing else.
join_node() {
    (umask 077 && "$CAPROCK" node token --pool "$2" --ttl 1h --data-dir "$DATA" >"$STATE/$1.kubeconfig")
    node create "$1" --image "oci:$BASE_LAYOUT:bookworm" --caprock "$CAPROCK" --kubeconfig "$STATE/$1.kubeconfig"
    rm "$STATE/$1.kubeconfig"
    node start "$1"
}

# example FILE...: creates examples, with the registry's port of this run.
example() {
    local file
    for file in "$@"; do
        sed "s/127\.0\.0\.1:5000/$REGISTRY/g" "$ROOT/examples/$file" | kubectl create -f -
    done
}

# move NODE POOL: by label, from pool worker.
move() { kubectl label node "$1" node-role.kubernetes.io/worker- "node-role.kubernetes.io/$2="; }

unpause() { kubectl patch "mcp/$1" --type merge --patch '{"spec":{"paused":false}}'; }

# field OBJECT JSONPATH: one field, empty when the object or the field is absent.
field() { kubectl get "$1" --ignore-not-found -o jsonpath="{$2}"; }

# condition OBJECT TYPE: True, False, Unknown or empty.
condition() { field "$1" ".status.conditions[?(@.type==\"$2\")].status"; }

# pool_is_updated POOL MACHINES
pool_is_updated() {
    [ "$(field "mcp/$1" '.status.conditions[?(@.type=="Updated")].status}{.status.updatedMachineCount')" = "True$2" ]
}

# ended_builds: how each build that ended did, as `Succeeded MESSAGE` or `Failed MESSAGE`.
ended_builds() {
    kubectl get machineosbuild -o json | jq -r '.items[].status.conditions[]? |
        select(.status == "True" and (.type | IN("Succeeded", "Failed", "Interrupted"))) | "\(.type) \(.message)"'
}

builds() { kubectl get machineosbuild -o json | jq '.items | length'; }

# Annotations of nodes, by their short names.
annotation() { field "node/$1" ".metadata.annotations.machineconfiguration\.openshift\.io/$2"; }

reboots() { cat "$STATE/nodes/$1/reboots"; }

autofs_is_active() { [ "$(node exec "$1" systemctl is-active autofs.service)" = active ]; }

# is_mounted NODE PATH: PATH is a mount point in the node's own mount table.
# Read from the table: asking the path itself would mount it.
is_mounted() { node exec "$1" cat /proc/1/mountinfo | cut -d' ' -f5 | grep -x "$2" >/dev/null; }

# --- when it goes wrong, and at the end -----------------------------------------------------------

# Everything one would ask for, into one file; its most telling parts on the terminal.
explain() {
    local out=$1 name
    {
        printf '== objects\n'
        kubectl get nodes,mcp,machineosconfig,machineosbuild,machineconfignode || true
        printf '\n== describe\n'
        kubectl describe mcp,machineosconfig,machineosbuild,machineconfignode,nodes || true
        printf '\n== events\n'
        kubectl get events --all-namespaces || true
        printf '\n== nodes\n'
        node list || true
        for name in "$STATE"/nodes/*/; do
            [ -d "$name" ] || continue
            name=$(basename "$name")
            printf '\n== agent of %s\n' "$name"
            node exec "$name" journalctl --no-pager --lines=80 --unit='caprock*' || true
            tail -n 20 "$STATE/nodes/$name/console.log" || true
        done
        printf '\n== caprock serve\n'
        tail -n 200 "$STATE/serve.log" || true
    } >"$out" 2>&1
    kubectl get nodes,mcp,machineosbuild >&2 || true
    tail -n 15 "$STATE/serve.log" >&2 || true
    note "more in $out"
}

# Removes the state folder with everything that runs from it.
remove_state() {
    local path pid deletions=()
    [ -d "$STATE" ] || return 0
    for path in "$STATE"/nodes/*/; do
        [ -d "$path" ] || continue
        node delete "$(basename "$path")" &
        deletions+=($!)
    done
    stop_server
    for pid in "${deletions[@]}"; do wait "$pid" || return 1; done
    # Nothing may be mounted below a folder that is about to be removed.
    while read -r path; do umount "$path"; done < <(
        awk -v state="$STATE/" 'index($5, state) == 1 { print $5 }' /proc/self/mountinfo | sort -r
    )
    remove_sysroots "$STATE"
}
