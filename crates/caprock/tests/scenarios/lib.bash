# What the scenarios share: a server of their own, waiting, and saying what is seen. Sourced before each of them.
# Standard output is the scenario's result and is compared; everything for a person goes to standard error.
# shellcheck shell=bash

DATA=$SCRATCH/data
NS=openshift-machine-config-operator
PATH=$ROOT/target/tools:$PATH
export KUBECONFIG=$DATA/kubeconfig
exec 3>&2

# Starts `caprock serve` and waits until it is ready. The second start uses the ports of the first.
serve() {
    rm -f "$KUBECONFIG"
    "$CAPROCK" serve --data-dir "$DATA" --listen "127.0.0.1:${API_PORT:-0}" \
        --registry-listen "127.0.0.1:${REGISTRY_PORT:-0}" --build-cache "$BUILD_CACHE" >>"$SCRATCH/serve.log" 2>&1 &
    SERVER=$!
    for _ in $(seq 300); do
        [ ! -s "$KUBECONFIG" ] || break
        kill -0 "$SERVER" 2>/dev/null || fail "the server ended"
        sleep 0.1
    done
    [ -s "$KUBECONFIG" ] || fail "the server is not ready after 30 s"
    API_PORT=$(sed -n 's/.*"server": "https:\/\/127.0.0.1:\([0-9]*\)".*/\1/p' "$KUBECONFIG")
    REGISTRY_PORT=$(sed -n 's/.*"127.0.0.1:\([0-9]*\)".*/\1/p' "$DATA/registry-auth.json")
    REGISTRY=127.0.0.1:$REGISTRY_PORT
}

# kill_server SIGNAL: ends the server and waits until it is gone.
kill_server() {
    kill "-$1" "$SERVER"
    wait "$SERVER" 2>/dev/null || true
}

# Pushes the base image to the embedded registry and makes it the default of the cluster.
push_base() {
    local layout pushed
    layout=$("$ROOT/demo/base-image.sh")
    pushed=$("$CAPROCK" copy "oci:$layout" "$REGISTRY/os/base:1" \
        --authfile "$DATA/registry-auth.json" --ca-file "$DATA/pki/ca.crt" 2>&3)
    kubectl -n "$NS" create configmap machine-config-osimageurl --from-literal=baseOSContainerImage="$pushed" >&3
}

# say TEXT: a line of the result.
say() { printf '%s\n' "$*"; }

# Hides what differs from run to run: digests, generated names, ports.
stable() {
    sed -E -e "s/127\.0\.0\.1:$REGISTRY_PORT/REGISTRY/g" -e 's/sha256:[0-9a-f]{64}/sha256:DIGEST/g' \
        -e 's/-[0-9a-f]{32}/-HASH/g' -e 's/[0-9]{2}:[0-9]{2}:[0-9]{2} UTC/TIME/g' -e 's/attempt [0-9]+ /attempt N /g'
}

# eventually SECONDS COMMAND...: runs COMMAND until it succeeds.
eventually() {
    local limit=$1 began=$SECONDS
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$((SECONDS - began))" -lt "$limit" ] || fail "not within $limit s: $*"
        sleep 0.2
    done
}

# condition KIND/NAME TYPE STATUS: waits for a condition.
condition() { eventually "${WAIT:-60}" has_condition "$@"; }
has_condition() {
    [ "$(kubectl get "$1" -o "jsonpath={.status.conditions[?(@.type=='$2')].status}")" = "$3" ]
}

# message KIND/NAME TYPE: reason and message of a condition, as a person reads them.
message() {
    kubectl get "$1" -o "jsonpath={.status.conditions[?(@.type=='$2')].reason}: {.status.conditions[?(@.type=='$2')].message}{'\n'}" | stable
}

# build_of CONFIG: the name of the MachineOSBuild that a MachineOSConfig wants now.
build_of() { kubectl get machineosconfig "$1" -o 'jsonpath={.status.machineOSBuild.name}'; }

# rendered POOL, built CONFIG, imaged CONFIG: whether it has got that far.
rendered() { [ -n "$(kubectl get mcp "$1" -o 'jsonpath={.spec.configuration.name}')" ]; }
built() { has_condition "machineosbuild/$(build_of "$1")" Succeeded True; }
imaged() { [ -n "$(kubectl get machineosconfig "$1" -o 'jsonpath={.status.currentImagePullSpec}')" ]; }

fail() {
    printf 'error: %s\n--- the last lines of the server:\n' "$*" >&3
    tail -n 40 "$SCRATCH/serve.log" >&3 || true
    exit 1
}

# pool NAME: a pool of its own, and a MachineConfig that every worker has.
pool() {
    config 00-worker worker <<<'ignition: {version: 3.5.0}'
    kubectl create -f - >&3 <<YAML
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfigPool
metadata:
  name: $1
spec:
  machineConfigSelector:
    matchExpressions:
    - {key: machineconfiguration.openshift.io/role, operator: In, values: [worker, $1]}
  nodeSelector:
    matchLabels:
      node-role.kubernetes.io/$1: ""
YAML
}

# config NAME ROLE <<< SPEC-CONFIG-AS-YAML: applies a MachineConfig whose `spec.config` is standard input.
config() {
    { printf 'apiVersion: machineconfiguration.openshift.io/v1\nkind: MachineConfig\nmetadata:\n  name: %s\n' "$1"
      printf '  labels: {machineconfiguration.openshift.io/role: %s}\nspec:\n  config:\n' "$2"
      sed 's/^/    /'; } | kubectl apply -f - >&3
}

# image NAME <<< CONTAINERFILE: applies a MachineOSConfig for the pool of that name.
image() {
    { printf 'apiVersion: machineconfiguration.openshift.io/v1\nkind: MachineOSConfig\nmetadata:\n  name: %s\n' "$1"
      printf 'spec:\n  machineConfigPool: {name: %s}\n  imageBuilder: {imageBuilderType: Job}\n' "$1"
      printf '  renderedImagePushSpec: %s/os/%s:latest\n  containerFile:\n  - content: |\n' "$REGISTRY" "$1"
      sed 's/^/      /'; } | kubectl apply -f - >&3
}

cleanup() {
    local jobs
    jobs=$(jobs -p)
    # shellcheck disable=SC2086 # several ids
    [ -z "$jobs" ] || kill -TERM $jobs 2>/dev/null || true
    wait || true
}
trap cleanup EXIT

serve
