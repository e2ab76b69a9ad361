# On a node with a layered image, a changed file needs no build and no reboot, and the old content comes back with the
# old MachineConfig.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

motd() {
    kubectl patch mc/00-worker --type json \
        --patch "[{\"op\":\"replace\",\"path\":\"/spec/config/storage/files/0/contents/source\",\"value\":\"data:,$1\"}]"
}
motd_is() { [ "$(node exec worker-1 cat /etc/motd)" = "$1" ]; }

with_nodes worker-1
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
move worker-1 "$POOL"
unpause "$POOL"
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
for text in first second first; do
    motd "$text"
    expect 300 "the motd \`$text\`" motd_is "$text"
    expect 300 "worker-1 to be updated" pool_is_updated "$POOL" 1
done
equal builds "$(builds)" 1
equal reboots "$(reboots worker-1)" 1
