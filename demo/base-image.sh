#!/usr/bin/env bash
# Makes the base OS image of the demo and the tests: Debian bookworm in ostree shape, as an
# OCI image layout with one layer. Prints the layout's path (its tag is `bookworm`).
# Cached under target/demo/base by the digest of the recipe; remove that folder for newer packages.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# The cloud kernel and a generic initramfs with ostree's boot step make the image boot in a
# virtual machine too, where people come in by SSH; container nodes only need them to be there.
ARCH=$(dpkg --print-architecture)
PACKAGES=systemd,systemd-sysv,dbus,udev,libpam-systemd,ca-certificates,iproute2,kmod,procps
PACKAGES+=,ostree,ostree-boot,dracut,linux-image-cloud-$ARCH,openssh-server,sudo
FILES=$ROOT/demo/base

# to_ostree_shape ROOT: what differs between a Debian root and an ostree host's.
to_ostree_shape() {
    local root=$1 kernel name
    kernel=$(basename "$root"/usr/lib/modules/*)
    mv "$root/boot/vmlinuz-$kernel" "$root/usr/lib/modules/$kernel/vmlinuz"
    mv "$root/boot/initrd.img-$kernel" "$root/usr/lib/modules/$kernel/initramfs.img"
    chmod 0644 "$root/usr/lib/modules/$kernel/initramfs.img"
    rm -f "$root"/vmlinuz* "$root"/initrd.img*
    find "$root/boot" "$root/run" "$root/tmp" "$root/dev" -xdev -mindepth 1 -delete

    # State lives in /var, which deployments share. The targets exist in the layer as well, for builds.
    for name in home mnt opt srv; do
        rm -rf "${root:?}/$name" "${root:?}/var/$name"
        ln -s "var/$name" "$root/$name"
    done
    mv "$root/root" "$root/var/roothome"
    ln -s var/roothome "$root/root"
    rm -rf "${root:?}/usr/local"
    ln -s ../var/usrlocal "$root/usr/local"
    mkdir "$root/sysroot"
    ln -s sysroot/ostree "$root/ostree"

    cp -a --no-preserve=ownership "$FILES/." "$root/"
    # A node gets no /var from an image: directories that packages put there are made at boot.
    {
        echo '# Made from the /var that the packages of the base image installed.'
        find "$root/var" -xdev -mindepth 1 -type d -printf 'd /var/%P 0%m %U %G -\n' |
            grep -Ev '^d /var/(tmp|cache/apt|lib/apt|lib/dpkg|lib/systemd/deb-|log/apt|roothome)' | LC_ALL=C sort -k2
    } >"$root/usr/lib/tmpfiles.d/base-var.conf"
    awk '$1 == "d" { print $2, $3 }' "$root/usr/lib/tmpfiles.d/ostree-layout.conf" |
        while read -r dir mode; do install -d -m "$mode" "$root$dir"; done

    # Identity belongs to a node: each makes its own machine-id; host name and resolver come from outside,
    # and SSH host keys are made at its first boot.
    : >"$root/etc/machine-id"
    rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_*
    rm -rf "$root/var/lib/apt/lists" "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root/var/log/apt"
    install -d "$root/var/lib/apt/lists/partial"
    systemctl --root="$root" --quiet preset-all
}

# write_layout ROOT DIR: one gzip layer, config, manifest and index.
write_layout() {
    local root=$1 out=$2 blobs=$2/blobs/sha256 diff config layer manifest kernel now
    install -d "$blobs"
    kernel=$(basename "$root"/usr/lib/modules/*)
    now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    tar -C "$root" --sort=name --numeric-owner --xattrs --format=posix \
        --pax-option=delete=atime,delete=ctime -cf "$out/layer.tar" .
    diff=$(sha256sum <"$out/layer.tar" | cut -d' ' -f1)
    gzip -n -1 <"$out/layer.tar" >"$out/layer.tar.gz"
    rm "$out/layer.tar"
    layer=$(add_blob "$out/layer.tar.gz")

    jq -cn --arg arch "$ARCH" --arg diff "sha256:$diff" --arg now "$now" --arg kernel "$kernel" '{
        created: $now, architecture: $arch, os: "linux",
        config: {
            Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            Cmd: ["/sbin/init"],
            Labels: {"ostree.bootable": "1", "containers.bootc": "1", "ostree.linux": $kernel,
                     "org.opencontainers.image.title": "Debian bookworm, image mode"}
        },
        rootfs: {type: "layers", diff_ids: [$diff]},
        history: [{created: $now, created_by: "demo/base-image.sh"}]
    }' >"$out/config"
    config=$(add_blob "$out/config")

    jq -cn --argjson config "$config" --argjson layer "$layer" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: ({mediaType: "application/vnd.oci.image.config.v1+json"} + $config),
        layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip"} + $layer]
    }' >"$out/manifest"
    manifest=$(add_blob "$out/manifest")

    jq -n --argjson manifest "$manifest" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json"} + $manifest +
                    {annotations: {"org.opencontainers.image.ref.name": "bookworm"}}]
    }' >"$out/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}\n' >"$out/oci-layout"
}

# add_blob FILE: moves FILE to its place by digest and prints {"digest", "size"}.
add_blob() {
    local digest size
    digest=$(sha256sum <"$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$digest"
    printf '{"digest":"sha256:%s","size":%s}' "$digest" "$size"
}

make_image() {
    local work=$1 sources=$2 root=$1/rootfs
    # mmdebstrap wants one-line sources in a file whose name does not end in `.sources`.
    printf '%s\n' "$sources" >"$work/sources.list"
    step "making the base image from Debian packages (about two minutes, once)"
    run_logged "$work/mmdebstrap.log" "installing packages" \
        mmdebstrap --variant=minbase --mode=root --format=directory --include="$PACKAGES" \
        --dpkgopt="$FILES/etc/dpkg/dpkg.cfg.d/image" \
        bookworm "$root" "$work/sources.list"
    rm -f "$root"/etc/apt/sources.list.d/* "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
    cp "$work/sources.list" "$root/etc/apt/sources.list"
    note "giving it ostree's shape"
    to_ostree_shape "$root"
    note "packing it"
    write_layout "$root" "$work/oci"
    rm -rf "$root"
}

need_root
sources=$(debian_sources)
key=$({
    printf '%s\n' "$ARCH" "$sources"
    cat "${BASH_SOURCE[0]}"
    cd "$FILES" && find . \( -type f -o -type l \) -printf '%p %m %l\n' -type f -exec sha256sum {} + | LC_ALL=C sort
} | sha256sum | cut -c1-16)
cache=$TARGET/demo/base
done_dir=$cache/$key

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || {
    note "another run is making the base image; waiting for it"
    flock 9
}
if [ ! -e "$done_dir" ]; then
    # A half-made image never gets the final name.
    work=$cache/partial
    rm -rf "$work"
    mkdir "$work"
    began=$SECONDS
    make_image "$work" "$sources"
    # What other recipes made is of no use any more.
    find "$cache" -mindepth 1 -maxdepth 1 -type d ! -path "$work" -exec rm -rf {} +
    mv "$work" "$done_dir"
    note "base image ready in $((SECONDS - began)) s: $(du -sh "$done_dir/oci" | cut -f1) in $done_dir"
fi
printf '%s\n' "$done_dir/oci"
