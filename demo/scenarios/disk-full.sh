# A node whose disk is full says so, stays as it is and in service, and goes on when there is room again.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

degraded_because() { state_is worker-1 Degraded && annotation worker-1 reason | grep -qF -- "$1"; }
FULL='No space left on device'
motd() {
    machine_config 50-motd worker <<YAML
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/motd.d/50-full, mode: 420, contents: {source: "data:,$1"}}
YAML
}
motd_is() { [ "$(node exec worker-1 cat /etc/motd.d/50-full 2>/dev/null)" = "$1" ]; }
# Its own reserve is not for the agent, and the last blocks go one by one.
fill() {
    fallocate --length "$(($(stat --file-system --format='%a * %S' "$STATE/nodes") - (1 << 20)))" "$STATE/nodes/filler"
    dd if=/dev/zero of="$STATE/nodes/filler" bs=4096 oflag=append conv=notrunc 2>/dev/null || true
}

NODES_DISK=2G with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
expect 600 "the build to succeed" build_says Succeeded
before=$(booted worker-1)
fill
note "the disk is full"

motd one
expect 120 "worker-1 to say that its disk is full" degraded_because "$FULL"
rm "$STATE/nodes/filler"
expect 300 "the change" motd_is one
expect 120 "worker-1 to be updated" pool_is_updated worker 1

fill
move worker-1 "$POOL"
unpause "$POOL"
expect 300 "worker-1 to say that its disk is full" degraded_because "$FULL"
equal "deployment of worker-1" "$(booted worker-1)" "$before"
equal reboots "$(reboots worker-1)" 0
rm "$STATE/nodes/filler"
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
equal reboots "$(reboots worker-1)" 1
autofs_is_active worker-1 || die "autofs.service is not active"
