#!/bin/sh
# Runs a command as a kubelet runs a builder's pod with `hostUsers: false`: as root of a user namespace with 65,536 owners that are
# nobody's outside, with the capabilities of deploy/user-namespaces/builder.yaml, the paths of /proc and /sys that runtimes cover, the
# machine's files for reading, and at /mnt a volume whose owners are mapped. Variables that begin with CAPROCK_ are handed on.
#   pod.sh OVERLAY VOLUME COMMAND [ARGUMENT...]
set -eu
overlay=$1 volume=$2
shift 2
bundle=$(mktemp -d)
trap 'rm -rf "$bundle/state"; rm "$bundle/config.json"; rmdir "$bundle/root" "$bundle"' EXIT
chmod 0755 "$bundle"
mkdir "$bundle/root"
held=$(sed -n '/add:/,/seccompProfile:/s/^ *- \([A-Z_]*\)$/CAP_\1/p' "$overlay")
jq --null-input --arg bundle "$bundle" --arg volume "$volume" --arg held "$held" '
    def mount($at; $kind; $from; $options): {destination: $at, type: $kind, source: $from, options: $options};
    ["nosuid", "noexec", "nodev"] as $tight
    | ($held | split("\n")) as $held
    | [{containerID: 0, hostID: 700000, size: 65536}] as $owners
    | {
        ociVersion: "1.0.2", hostname: "pod", root: {path: ($bundle + "/root"), readonly: true},
        process: {
            args: $ARGS.positional, cwd: "/", user: {uid: 0, gid: 0}, noNewPrivileges: false,
            env: (["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] + [env | to_entries[] | select(.key | startswith("CAPROCK_")) | "\(.key)=\(.value)"]),
            capabilities: {bounding: $held, effective: $held, permitted: $held}
        },
        mounts: [
            mount("/proc"; "proc"; "proc"; $tight),
            mount("/dev"; "tmpfs"; "tmpfs"; ["nosuid", "mode=755"]),
            mount("/dev/pts"; "devpts"; "devpts"; ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys"; "sysfs"; "sysfs"; $tight + ["ro"]),
            mount("/sys/fs/cgroup"; "cgroup"; "cgroup"; $tight + ["ro"]),
            mount("/run"; "tmpfs"; "tmpfs"; ["nosuid", "nodev", "mode=755"]),
            mount("/tmp"; "tmpfs"; "tmpfs"; ["nosuid", "nodev", "mode=1777"]),
            mount("/mnt"; "bind"; $volume; ["bind", "rprivate", "idmap"])
        ],
        linux: {
            uidMappings: $owners, gidMappings: $owners,
            namespaces: [("user", "mount", "pid", "ipc", "uts", "network", "cgroup") | {type: .}],
            maskedPaths: ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            readonlyPaths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    }' --args -- "$@" >"$bundle/config.json"
# crun refuses a machine with both kinds of cgroups; where there are, it does not see the newer.
# shellcheck disable=SC2016 # for the inner shell
unshare --mount sh -c '
    if findmnt --types cgroup >/dev/null; then findmnt --noheadings --output TARGET --types cgroup2 | xargs --no-run-if-empty umount --lazy; fi
    mount --bind / "$1/root"
    exec crun --root "$1/state" --cgroup-manager=disabled run --bundle "$1" "${1##*/}"' sh "$bundle" </dev/null
