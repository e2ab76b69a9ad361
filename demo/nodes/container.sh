# A node as a container: systemd in systemd-nspawn, with a real ostree deployment as its root. Sourced by `node.sh`.
# shellcheck shell=bash

# The sysroot stays a folder of the host.
finish_create() { :; }

# The name of the deployment that boots next.
next_boot() { basename "$(default_deployment)"; }

# The deployment is the root; ostree finds itself in the boot by /sysroot and /run/ostree-booted.
# norbind: a recursive bind would show each of the node's mounts a second time below /sysroot.
boot() {
    local deployment
    deployment=$(default_deployment)
    echo "supervisor: booting ${deployment##*/}" >>"$NODE/console.log"
    : >"$NODE/empty"
    exec systemd-nspawn --quiet --boot --machine="$ID" --hostname="$NAME" --directory="$deployment" \
        --register=no --keep-unit --console=pipe --link-journal=no --timezone=off --resolv-conf=bind-host \
        --bind="$SYSROOT:/sysroot:norbind" \
        --bind="$SYSROOT/ostree/deploy/$STATEROOT/var:/var" \
        --bind="$SYSROOT/boot:/boot" \
        --bind-ro="$deployment/usr:/usr" \
        --bind-ro="$NODE/empty:/run/ostree-booted" \
        </dev/null >>"$NODE/console.log" 2>&1 9>&-
}

# systemd-nspawn's way to say that the node asked for a reboot.
wants_reboot() { [ "$1" -eq 133 ]; }

# Init of the node: the child of systemd-nspawn that is number one in a namespace of its own. It is recorded once its
# systemd takes commands: before, it may not even be in the node's own root yet.
record_leader() {
    local child
    while kill -0 "$1" 2>/dev/null; do
        for child in $(pgrep --parent "$1"); do
            if grep -qsE '^NSpid:.*[[:space:]]1$' "/proc/$child/status" &&
                [ "$(cat "/proc/$child/comm" 2>/dev/null)" = systemd ] &&
                [ -S "/proc/$child/root/run/systemd/private" ]; then
                echo "$child" >"$NODE/pid.new"
                mv "$NODE/pid.new" "$NODE/pid"
                return
            fi
        done
        sleep 0.02
    done
}

# systemd as init powers off on this signal.
signal_power_off() {
    local pid
    if pid=$(leader); then kill -RTMIN+4 "$pid"; fi
}

# Before it is deleted.
end() { stop "$NAME"; }

# run_inside PID COMMAND...: as root in the node with that init, in place of this process.
run_inside() {
    local pid=$1
    shift
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --root --wd \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM="${TERM:-dumb}" "$@"
}
