# A node as a virtual machine: QEMU boots the deployment's own kernel and initramfs from a disk that holds the sysroot.
# It stands in for the boot loader, and takes what the newest entry on the disk says. Sourced by `node.sh`.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../lab.sh"

DISK_SIZE=4G

# finish_create ETC PORT,PORT...: gives the sysroot what a machine of its own needs, with those ports of the host's
# loopback, and makes a disk of it.
finish_create() {
    local etc=$1 ports=$2 port
    lab_is_there || die "QEMU is not there; \`demo/deps.sh vm\` gets it"
    free_port 2222 >"$NODE/ssh-port"
    printf '%s\n' "$NAME" >"$etc/hostname"
    # HOST_NAMES stands in for a name service that knows this machine's servers.
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n10.0.2.2 host %s\n' "$NAME" "${HOST_NAMES:-}" >"$etc/hosts"
    printf 'nameserver 10.0.2.3\n' >"$etc/resolv.conf"
    cp "$ROOT"/demo/nodes/host-port@.{socket,service} "$etc/systemd/system/"
    for port in ${ports//,/ }; do
        systemctl --root="${etc%/etc}" --quiet enable "host-port@$port.socket"
    done
    sed -i '/^options /s/$/ root=\/dev\/vda rw console=ttyS0 panic=1 systemd.journald.forward_to_console=1/' \
        "$(default_entry "$SYSROOT/boot")"
    truncate --size="$DISK_SIZE" "$NODE/disk"
    mkfs.ext4 -q -m 0 -d "$SYSROOT" "$NODE/disk"
    remove_sysroots "$SYSROOT"
}

# from_disk PATH DESTINATION: copies a file or folder of the disk, which must not be in use.
from_disk() {
    debugfs -R "rdump $1 $2" "$NODE/disk" >>"$NODE/supervisor.log" 2>&1
    [ -e "$2/$(basename "$1")" ] || die "\`$1\` is not on the disk of node \`$NAME\`"
}

# Of a machine that is up: the deployment that it has booted.
next_boot() { cat "$NODE/booted" 2>/dev/null || printf -- '-\n'; }

# entry_value FILE KEY: a value of a boot loader's entry.
entry_value() { sed -n "s/^$2 //p" "$1"; }

boot() {
    local entry options acceleration=${VM_ACCEL:-tcg,thread=multi}
    rm -rf "${NODE:?}/boot"
    mkdir -p "$NODE/boot/loader"
    # Replays the journal of a machine that was killed; status 1 says that it had to.
    e2fsck -p "$NODE/disk" >>"$NODE/supervisor.log" 2>&1 || [ $? -eq 1 ] || die "the disk of node \`$NAME\` is damaged"
    from_disk /boot/loader/entries "$NODE/boot/loader"
    entry=$(default_entry "$NODE/boot")
    from_disk "/boot$(entry_value "$entry" linux)" "$NODE/boot"
    from_disk "/boot$(entry_value "$entry" initrd)" "$NODE/boot"
    mv "$NODE"/boot/vmlinuz* "$NODE/boot/kernel"
    mv "$NODE"/boot/initramfs* "$NODE/boot/initramfs"
    options=$(entry_value "$entry" options)
    sed -n 's/^options.*ostree=\([^ ]*\).*/\1/p' "$entry" >"$NODE/booted"
    rm -f "$NODE"/monitor.*
    mkfifo "$NODE/monitor.in" "$NODE/monitor.out"
    echo "supervisor: booting $(cat "$NODE/booted")" >>"$NODE/console.log"
    in_lab "$NODE" qemu-system-x86_64 -L /usr/share/qemu -L /usr/share/seabios \
        -machine q35 -accel "$acceleration" -cpu max -smp 1 -m 1536 -nodefaults -display none -no-reboot \
        -serial stdio -chardev pipe,id=monitor,path=/srv/monitor -mon chardev=monitor \
        -kernel /srv/boot/kernel -initrd /srv/boot/initramfs -append "$options" \
        -drive file=/srv/disk,if=virtio,format=raw,cache=unsafe \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$(cat "$NODE/ssh-port")-:22" \
        -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci \
        </dev/null >>"$NODE/console.log" 2>&1 9>&-
}

# QEMU ends in the same way when the machine reboots and when it powers off; the kernel says which, as its last words.
wants_reboot() { tail -n 5 "$NODE/console.log" | grep -q 'reboot: Restarting system'; }

record_leader() { echo "$1" >"$NODE/pid"; }

# Presses the power button.
signal_power_off() {
    # shellcheck disable=SC2016 # the inner shell's variable
    ! leader >/dev/null || timeout 2 sh -c 'echo system_powerdown >"$1"' sh "$NODE/monitor.in" || true
}

# Before it is deleted: nothing of it is needed any more.
end() { kill_all; }

# run_inside PID COMMAND...: as root in the node, by SSH as `core` in place of this process. The key is a MachineConfig's.
run_inside() {
    shift
    exec ssh -i "$STATE/ssh-key" -p "$(cat "$NODE/ssh-port")" -o BatchMode=yes -o ConnectTimeout=20 -o LogLevel=ERROR \
        -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="$NODE/known_hosts" \
        core@127.0.0.1 sudo -- "$(printf '%q ' "$@")"
}
