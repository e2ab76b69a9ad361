# What comes between on the way to a layered image: half of the image is gone, the server too; the node changes pools in
# the middle, and when the new deployment is made; somebody else reboots it; a unit of the new version fails. Each ends
# where it should, and in service.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

is_in_service() { [ -z "$(field node/worker-1 .spec.unschedulable)" ]; }
is_cordoned() { ! is_in_service; }
degraded_because() { state_is worker-1 Degraded && annotation worker-1 reason | grep -qF -- "$1"; }
node_log() { node exec worker-1 journalctl --no-pager --output=cat --unit=caprock-agent.service; }
log_says() { node_log | grep -qF -- "$1"; }
runs_plain_image() { node exec worker-1 test ! -e /usr/lib/systemd/system/autofs.service; }
has_rebooted() { [ "$(reboots worker-1)" -gt "$1" ]; }
is_updated() { pool_is_updated "$1" 1 && is_in_service; }
has_pending() { node exec worker-1 ostree admin status | grep -qF '(pending)'; }
move_back() { kubectl label node worker-1 "node-role.kubernetes.io/$POOL-" node-role.kubernetes.io/worker=; }

with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
expect 600 "the build to succeed" build_says Succeeded

step "half of the image is gone, and then the server"
image=$(field "machineosconfig/$POOL" .status.currentImagePullSpec)
layer=$(jq -r '.layers[-1].digest' "$DATA/registry/blobs/sha256/${image#*@sha256:}")
layer=${layer#sha256:}
mv "$DATA/registry/blobs/sha256/$layer" "$STATE/layer"
move worker-1 "$POOL"
unpause "$POOL"
expect 120 "the node to say what it misses" degraded_because "$layer"
is_in_service || die "worker-1 is cordoned for an image that it has not"
stop_server
mv "$STATE/layer" "$DATA/registry/blobs/sha256/$layer"
start_server
expect 300 "worker-1 to be cordoned" is_cordoned

step "the node changes pools in the middle"
move_back
expect 300 "worker-1 to be back in pool worker" is_updated worker
runs_plain_image || die "worker-1 runs the layered image"
note "$(reboots worker-1) reboots"

step "its target goes back when the new deployment is made and cannot be booted"
before=$(reboots worker-1)
node exec worker-1 systemctl mask --runtime --quiet reboot.target
move worker-1 "$POOL"
expect 300 "the deployment to be made" has_pending
move_back
expect 300 "worker-1 to be back in pool worker" is_updated worker
! has_pending || die "a deployment waits that nobody wants: $(node exec worker-1 ostree admin status)"
node exec worker-1 systemctl unmask --runtime --quiet reboot.target
equal "reboots" "$(reboots worker-1)" "$before"

step "somebody else reboots it in the middle"
before=$(reboots worker-1)
move worker-1 "$POOL"
expect 300 "worker-1 to be cordoned" is_cordoned
node exec worker-1 systemctl reboot || true
expect 600 "worker-1 to be updated" is_updated "$POOL"
[ "$(reboots worker-1)" -le $((before + 2)) ] || die "worker-1 rebooted $(($(reboots worker-1) - before)) times"
autofs_is_active worker-1 || die "autofs.service is not active"

step "a unit of the new version fails"
before=$(reboots worker-1)
version=$(annotation worker-1 currentConfig)
machine_config 99-fails "$POOL" <<'YAML'
kernelArguments: [fails=1]
config:
  ignition: {version: 3.4.0}
  systemd:
    units:
      - name: fails.service
        enabled: true
        contents: |
          [Service]
          Type=oneshot
          ExecStart=/bin/sh -c 'echo there is no disk for this; exit 3'
          [Install]
          WantedBy=multi-user.target
YAML
expect 600 "worker-1 to reboot" has_rebooted "$before"
note "killing the agent while it judges"
kill_agent worker-1 || note "it is not up yet"
expect 600 "worker-1 to say why it went back" degraded_because 'there is no disk for this'
expect 300 "worker-1 to be in service" is_in_service
equal "config of worker-1" "$(annotation worker-1 currentConfig)" "$version"
equal "reboots, there and back" "$(($(reboots worker-1) - before))" 2
autofs_is_active worker-1 || die "autofs.service is not active"
degraded_because fails.service || die "the reason is gone: $(annotation worker-1 reason)"
kubectl delete mc 99-fails
expect 300 "worker-1 to be updated" is_updated "$POOL"
equal "reboots, nothing more" "$(($(reboots worker-1) - before))" 2
