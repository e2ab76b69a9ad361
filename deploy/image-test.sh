#!/usr/bin/env bash
# The image is what it says: a static program that runs on nothing, as nobody, and speaks TLS with an API server.
# Needs root and crun.
set -euo pipefail
# shellcheck source=demo/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/env.sh"

WORK=$(mktemp -d)
SERVER=
finish() {
    [ -z "$SERVER" ] || kill "$SERVER" 2>/dev/null || true
    wait
    rm -rf "$WORK"
}
trap finish EXIT

# Refused before anything is made.
for push in caprock:1 library/caprock:1 r.example:5000/caprock r.example/caprock@sha256:0; do
    ! PUSH=$push "$ROOT/deploy/image.sh" 2>"$WORK/push.log" || die "PUSH=$push was taken"
    grep -qF "PUSH=$push: a registry's host, a name and a tag were expected" "$WORK/push.log" || die "$(cat "$WORK/push.log")"
done
PROFILE=dev TARGETS=caprock "$ROOT/deploy/image.sh"
program=$(echo "$TARGET"/image/programs/caprock-*)

step "running the image"
mkdir "$WORK/layout" "$WORK/root"
tar -C "$WORK/layout" -xf "$TARGET/image/caprock.tar"
blob() { echo "$WORK/layout/blobs/${1/://}"; }
manifest=$(blob "$(jq -r '.manifests[0].digest' "$WORK/layout/index.json")")
config=$(blob "$(jq -r .config.digest "$manifest")")
for layer in $(jq -r '.layers[].digest' "$manifest"); do tar -C "$WORK/root" -xzf "$(blob "$layer")"; done
found=$(cd "$WORK/root" && find . -type f | sort | tr '\n' ' ')
[ "$found" = "./etc/ssl/certs/ca-certificates.crt ./usr/bin/caprock " ] || die "the image holds $found"

"$program" serve --data-dir "$WORK/data" --listen 127.0.0.1:0 --registry-listen 127.0.0.1:0 2>"$WORK/serve.log" &
SERVER=$!
for _ in $(seq 600); do
    [ ! -s "$WORK/data/kubeconfig" ] || break
    kill -0 "$SERVER" || die "the server ended: $(cat "$WORK/serve.log")"
    sleep 0.2
done
install -m 0644 "$WORK/data/kubeconfig" "$WORK/root/kubeconfig"
mkdir -p "$WORK/root/proc" "$WORK/root/dev" "$WORK/root/sys"

# in_image ARGUMENT...: what a pod does with them: the image's entry point and user, a read-only root, no capability.
in_image() {
    (cd "$WORK" && rm -f config.json && crun spec)
    jq --slurpfile image "$config" --argjson arguments "$(printf '%s\n' "$@" | jq --raw-input . | jq --slurp .)" '
        .process.terminal = false | .root = {path: "root", readonly: true}
        | .process.args = $image[0].config.Entrypoint + $arguments
        | .process.env = ($image[0].config.Env // []) + ["KUBECONFIG=/kubeconfig"]
        | ($image[0].config.User | split(":") | map(tonumber)) as $ids | .process.user = {uid: $ids[0], gid: $ids[1]}
        | .process.noNewPrivileges = true | .process.capabilities = {}
        | .linux.namespaces |= map(select(.type == "pid" or .type == "mount" or .type == "ipc" or .type == "uts"))
        | del(.linux.resources) | .mounts |= map(select(.type != "cgroup"))
        ' "$WORK/config.json" >"$WORK/changed.json"
    mv "$WORK/changed.json" "$WORK/config.json"
    # crun refuses a machine with both kinds of cgroups; where there are, it does not see the newer.
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount bash -c '
        if findmnt --types cgroup >/dev/null; then findmnt --noheadings --output TARGET --types cgroup2 | xargs --no-run-if-empty umount --lazy; fi
        exec crun --cgroup-manager=disabled run --bundle "$@"' bash "$WORK" "caprock-image-test-$$" </dev/null
}
in_image --version | grep -q '^caprock ' || die "the program does not say its version"
in_image install --image r.example/caprock:1 --no-wait 2>"$WORK/install.log" || die "$(cat "$WORK/install.log")"
grep -q 'applied DaemonSet caprock-system/caprock-agent' "$WORK/install.log" || die "$(cat "$WORK/install.log")"
note "the image runs as nobody on a read-only root, and has installed itself"
