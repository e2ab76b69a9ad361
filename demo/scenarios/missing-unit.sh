# A unit that exists nowhere fails the build before any node is touched; correcting the MachineConfig mends it.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

enable_unit() {
    machine_config 99-worker-automount-extra "$POOL" <<YAML
config:
  ignition: {version: 3.4.0}
  systemd:
    units:
      - {name: $1, enabled: true}
YAML
}
pool_says() { field "mcp/$POOL" '.status.conditions[?(@.type=="ImageBuildDegraded")].message' | grep -F "$1"; }
build_names_both() { build_says Failed | grep -F 'nowhere.service' | grep -F '99-worker-automount-extra'; }

with_nodes worker-1
before=$(booted worker-1)
example automount/machineconfigpool.yaml automount/machineconfigs.yaml
enable_unit nowhere.service
example automount/machineosconfig.yaml
move worker-1 "$POOL"
unpause "$POOL"
expect 600 "a failed build that names unit and MachineConfig" build_names_both
expect 120 "the pool to say so" pool_says nowhere.service
equal "deployment of worker-1" "$(booted worker-1)" "$before"
equal reboots "$(reboots worker-1)" 0
equal "state of worker-1" "$(annotation worker-1 state)" Done

enable_unit prepare-exports.service
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
equal reboots "$(reboots worker-1)" 1
autofs_is_active worker-1 || die "autofs.service is not active"
