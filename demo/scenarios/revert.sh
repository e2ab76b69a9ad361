# A pool whose MachineOSConfig is deleted goes back to the plain base image with exactly one reboot, and keeps the rest of
# its configuration; the image leaves the registry. Without the whole pool its nodes go back to pool worker.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

is_layered() { state_is worker-1 Done && [ -n "$(annotation worker-1 currentImage)" ]; }
images_kept() { kubectl get configmap -n openshift-machine-config-operator -o name | grep -c '/layered-image-' || true; }
images_are_collected() { [ "$(images_kept)" = 0 ]; }
# registry_has IMAGE: by digest.
registry_has() {
    local path=${1#*/} login
    login=$(jq -r '.auths[].auth' "$DATA/registry-auth.json" | head -n 1 | base64 -d)
    curl -sf -o /dev/null --cacert "$DATA/pki/ca.crt" -u "$login" -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
        "https://$REGISTRY/v2/${path%@*}/manifests/${path#*@}"
}
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
image=$(annotation worker-1 currentImage)
registry_has "$image" || die "$image is not in the registry"
equal "images kept in mind" "$(images_kept)" 1

kubectl delete "mosc/$POOL"
expect 600 "worker-1 to run the base image" is_plain
expect 120 "the pool to be updated" pool_is_updated "$POOL" 1
equal "reboots after the revert" "$(reboots worker-1)" 2
node exec worker-1 ostree admin status | grep -q '^\*' || die "nothing is booted"
equal motd "$(node exec worker-1 cat /etc/motd)" hello
expect 120 "the image to be collected" images_are_collected
! registry_has "$image" || die "$image is still in the registry"
equal builds "$(builds)" 0

# The whole recipe, on a node that keeps its label of pool worker.
kubectl label node worker-1 node-role.kubernetes.io/worker=
example automount/machineconfigs.yaml automount/machineosconfig.yaml
expect 600 "worker-1 to run the layered image again" is_layered
autofs_is_active worker-1 || die "autofs.service is not active"
kubectl delete "mcp/$POOL"
expect 600 "worker-1 to run the base image again" is_plain
expect 120 "pool worker to be updated" pool_is_updated worker 1
equal "reboots after the pool went" "$(reboots worker-1)" 4
for file in /etc/auto.home /etc/auto.master.d/home.autofs /etc/sssd/sssd.conf; do
    ! node exec worker-1 test -e "$file" || die "$file is still there"
done
kubectl delete "mosc/$POOL"
expect 120 "the image to be collected" images_are_collected
equal builds "$(builds)" 0
