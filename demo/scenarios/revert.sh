# A pool whose MachineOSConfig is deleted goes back to the plain base image with exactly one reboot, and keeps the rest of
# its configuration.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

is_layered() { state_is worker-1 Done && [ -n "$(annotation worker-1 currentImage)" ]; }
is_plain() { state_is worker-1 Done && [ -z "$(annotation worker-1 currentImage)" ]; }

with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineosconfig.yaml
# Without the units that only the layered image has: the plain image could not run them.
kubectl create -f - <<MC
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfig
metadata:
  name: 50-$POOL-motd
  labels: {machineconfiguration.openshift.io/role: $POOL}
spec:
  config:
    ignition: {version: 3.4.0}
    storage: {files: [{path: /etc/motd, overwrite: true, contents: {source: "data:,hello"}}]}
MC
move worker-1 "$POOL"
unpause "$POOL"
expect 900 "worker-1 to run the layered image" is_layered
equal reboots "$(reboots worker-1)" 1

kubectl delete "mosc/$POOL"
expect 600 "worker-1 to run the base image" is_plain
expect 120 "the pool to be updated" pool_is_updated "$POOL" 1
equal "reboots after the revert" "$(reboots worker-1)" 2
node exec worker-1 ostree admin status | grep -q '^\*' || die "nothing is booted"
equal motd "$(node exec worker-1 cat /etc/motd)" hello
