# Programs that a virtual machine and the servers beside it need, unpacked from Debian packages into a root of their own:
# nothing of them is installed on this machine, and no service of it starts. Sourced, never run.
# shellcheck shell=bash

LAB=$TOOLS/lab
LAB_PACKAGES=qemu-system-x86,slapd,ldap-utils,nfs-ganesha-vfs

lab_is_there() { [ "$(cat "$LAB/packages" 2>/dev/null)" = "$LAB_PACKAGES" ]; }

# install_lab: makes it, or finds it.
install_lab() {
    local partial=$LAB.partial
    ! lab_is_there || return 0
    step "getting $LAB_PACKAGES"
    rm -rf "$partial" "$LAB"
    mkdir -p "$TOOLS"
    debian_sources >"$TOOLS/lab.list"
    run_logged "$TOOLS/lab.log" "unpacking packages" \
        mmdebstrap --variant=extract --mode=root --format=directory --include="$LAB_PACKAGES" \
        --dpkgopt="$ROOT/demo/base/etc/dpkg/dpkg.cfg.d/image" bookworm "$partial" "$TOOLS/lab.list"
    mkdir -p "$partial"/{proc,run,srv}
    # By it nfs-ganesha finds file systems.
    ln -s /proc/self/mounts "$partial/etc/mtab"
    printf '%s\n' "$LAB_PACKAGES" >"$partial/packages"
    mv "$partial" "$LAB"
}

# in_lab DIR COMMAND...: a program of the lab takes the place of this shell. It starts in `/` and sees DIR as `/srv`.
in_lab() {
    # shellcheck disable=SC2016 # the inner shell's variables
    exec unshare --mount --propagation private sh -euc '
        lab=$1 dir=$2
        mount --rbind /dev "$lab/dev"
        mount --rbind /proc "$lab/proc"
        mount -t tmpfs tmpfs "$lab/run"
        mount --bind "$dir" "$lab/srv"
        shift 2
        exec env -i PATH=/usr/sbin:/usr/bin LAB_DIR="$dir" chroot "$lab" "$@"
    ' sh "$LAB" "$@"
}

# start_in_lab DIR COMMAND...: starts a server in the background, with its output in DIR/log.
start_in_lab() {
    (in_lab "$@") </dev/null >"$1/log" 2>&1 &
    echo $! >"$1/pid"
    # At first it is still on its way from this shell to its own program.
    poll 30 "$2 to start" lab_pid "$1" >/dev/null || die "$2 ended at once: $(tail -n 5 "$1/log")"
}

# lab_pid DIR: the server that was started with DIR, if it runs. Its environment tells it from a reused id.
lab_pid() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) || return 1
    grep -qsz "^LAB_DIR=$1\$" "/proc/$pid/environ" && printf '%s\n' "$pid"
}

has_ended() { ! lab_pid "$1" >/dev/null; }

# stop_in_lab DIR: also one that an earlier run left.
stop_in_lab() {
    local pid
    pid=$(lab_pid "$1") || return 0
    kill -TERM "$pid"
    poll 10 "$(basename "$1") to stop" has_ended "$1" || kill -KILL "$pid"
}
