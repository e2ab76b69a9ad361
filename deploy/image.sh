#!/usr/bin/env bash
# Makes Caprock's images from this checkout with Caprock itself: static programs, and the Containerfile around them.
#   deploy/image.sh                        into target/image/*.tar, for this machine's architecture
#   PUSH=r.example/caprock:1 deploy/image.sh    pushes r.example/caprock:1 and r.example/caprock-builder:1
#   AUTHFILE=FILE CA_FILE=FILE             its credentials, where not in ~/.docker/config.json, and its own certificate authority
#   ARCHS=amd64,arm64                      for several; each takes a Rust target and a C compiler for it
#   PROFILE=dev TARGETS=caprock            what the test makes
set -euo pipefail
# shellcheck source=demo/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/../demo/env.sh"

case $(uname -m) in
    x86_64) HERE=amd64 ;;
    aarch64) HERE=arm64 ;;
    *) die "there is no image for $(uname -m)" ;;
esac
ARCHS=${ARCHS:-$HERE}
TARGETS=${TARGETS:-caprock,caprock-builder}
PROFILE=${PROFILE:-release}
# shellcheck disable=SC2153 # env.sh says where
OUT=$TARGET/image
# Left alone, so that `RUN` steps of Debian's packages are cached from one time to the next.
CACHE=$OUT/cache
AUTHORITIES=/etc/ssl/certs

# triple ARCH: what compilers call it.
triple() {
    case $1 in
        amd64) echo x86_64-unknown-linux-gnu ;;
        arm64) echo aarch64-unknown-linux-gnu ;;
        *) die "unknown architecture $1; there are amd64 and arm64" ;;
    esac
}

# missing ARCH: what this machine lacks to make the images of another architecture, a line each.
missing() {
    local arch=$1 triple
    [ "$arch" != "$HERE" ] || return 0
    triple=$(triple "$arch")
    command -v "${triple/-unknown/}-gcc" >/dev/null ||
        echo "a C compiler: apt-get install gcc-${triple%%-*}-linux-gnu libc6-dev-$arch-cross"
    (cd "$ROOT" && [ -d "$(rustc --print sysroot)/lib/rustlib/$triple" ]) ||
        echo "Rust's library: rustup target add $triple"
    if [[ ,$TARGETS, != *,caprock-builder,* ]] || grep -qsx enabled "/proc/sys/fs/binfmt_misc/qemu-${triple%%-*}"; then
        return 0
    fi
    if command -v "qemu-${triple%%-*}-static" >/dev/null && command -v update-binfmts >/dev/null; then
        echo "an emulator that the kernel knows of: mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc," \
            "then update-binfmts --enable qemu-${triple%%-*}; where that is not allowed, TARGETS=caprock makes the image without packages"
    else
        echo "an emulator for the builder's packages: apt-get install qemu-user-static binfmt-support (not for TARGETS=caprock)"
    fi
}

# program ARCH: makes the static program of one architecture. Only the last crate is compiled for that: what it is made of
# is what other builds have made already.
program() {
    local arch=$1 triple made=$TARGET/${PROFILE/dev/debug} flags=()
    if [ "$arch" != "$HERE" ]; then
        triple=$(triple "$arch")
        local cc=${triple/-unknown/}-gcc upper=${triple^^}
        export "CARGO_TARGET_${upper//-/_}_LINKER=$cc" "CC_${triple//-/_}=$cc"
        flags=(--target "$triple")
        made=$TARGET/$triple/${PROFILE/dev/debug}
    fi
    step "making the static program for $arch"
    (cd "$ROOT" && cargo rustc --quiet --profile "$PROFILE" -p caprock --bin caprock ${flags[@]+"${flags[@]}"} -- \
        -C target-feature=+crt-static -C strip=symbols)
    install -D -m 0755 "$made/caprock" "$OUT/programs/caprock-$arch"
}

# image NAME: builds one target of the Containerfile.
image() {
    local name=$1 to=()
    if [ -n "${PUSH:-}" ]; then
        to=(--push --tag "${PUSH%:*}${name#caprock}:${PUSH##*:}")
    else
        to=(--output "oci-archive:$OUT/$name.tar:latest")
    fi
    step "building $name"
    "$OUT/programs/caprock-$HERE" build --target "$name" --platform "${ARCHS//,/,linux/}" \
        --build-context "programs=$OUT/programs" --build-context "authorities=$AUTHORITIES" \
        ${BUILDER_BASE:+--build-arg "BUILDER_BASE=$BUILDER_BASE"} \
        ${AUTHFILE:+--authfile "$AUTHFILE"} ${CA_FILE:+--ca-file "$CA_FILE"} \
        --cache-dir "$CACHE" --file "$ROOT/Containerfile" "${to[@]}" "$ROOT/deploy" ||
        die "there is no image $name; for a registry, AUTHFILE=FILE gives credentials and CA_FILE=FILE its certificate authority"
}

[ -r "$AUTHORITIES/ca-certificates.crt" ] || die "apt-get install ca-certificates"
# Before anything is compiled, which takes its time.
# Without its host, a name would be one of Docker Hub's; without a tag, nobody would find the image again.
[[ -z ${PUSH:-} || $PUSH =~ ^([^/@]*[.:][^/@]*|localhost)/[^@:]+:[^@:/]+$ ]] ||
    die "PUSH=$PUSH: a registry's host, a name and a tag were expected, as in PUSH=registry.example.com/caprock:1"
for arch in ${ARCHS//,/ }; do
    triple "$arch" >/dev/null
    lacking=$(missing "$arch")
    [ -z "$lacking" ] || die "images for $arch cannot be made here, which takes
$lacking"
done
mkdir -p "$OUT"
for arch in ${ARCHS//,/ }; do program "$arch"; done
# The program that builds is this machine's, whatever is built for.
[ -x "$OUT/programs/caprock-$HERE" ] || program "$HERE"
ARCHS=linux/$ARCHS
for name in ${TARGETS//,/ }; do image "$name"; done
