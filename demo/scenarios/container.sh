# The agent in a container beside the node's systemd, with the node's root at /host: as a DaemonSet's pod has it. It makes
# live changes, brings an image and reboots, and goes on after the reboot as the pod that is started again.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

# The container: a root of its own with the programs' libraries, and the host's with everything below it.
in_a_container() {
    node exec worker-1 sh -c 'cat >/etc/systemd/system/pod.sh; chmod 0755 /etc/systemd/system/pod.sh' <<'SCRIPT'
#!/bin/sh -e
root=/run/pod
mkdir -p $root
mount -t tmpfs pod $root
cd $root
mkdir usr etc proc host tmp
ln -s usr/lib usr/lib64 usr/bin .
mount --rbind /usr usr
mount --rbind /proc proc
mount --rbind / host
cp /etc/caprock/kubeconfig etc/kubeconfig
cp /usr/local/bin/caprock caprock
exec chroot . /caprock agent --host-root /host --kubeconfig /etc/kubeconfig --node-name worker-1 \
    --register-node --node-labels node-role.kubernetes.io/worker=
SCRIPT
    node exec worker-1 sh -c 'cat >/etc/systemd/system/pod.service' <<'UNIT'
[Service]
ExecStart=unshare --mount --propagation slave /etc/systemd/system/pod.sh
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
    node exec worker-1 systemctl disable --now caprock-agent.service caprock-boot.service
    node exec worker-1 systemctl enable --now pod.service
}

agent_is_in_a_container() {
    local pid
    pid=$(node exec worker-1 systemctl show --value --property=MainPID pod.service)
    [ "$(node exec worker-1 readlink "/proc/$pid/exe")" = /run/pod/caprock ] &&
        [ "$(node exec worker-1 readlink "/proc/$pid/ns/mnt")" != "$(node exec worker-1 readlink /proc/1/ns/mnt)" ]
}
unit_is_active() { node exec worker-1 systemctl is-active --quiet live.service; }

with_nodes worker-1
in_a_container
expect 60 "the agent's container" agent_is_in_a_container
machine_config 50-live worker <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/example.d/live, mode: 384, contents: {source: "data:,live"}}
  systemd:
    units:
      - name: live.service
        enabled: true
        contents: |
          [Service]
          ExecStart=/bin/sleep infinity
          [Install]
          WantedBy=multi-user.target
YAML
expect 120 "the live change" unit_is_active
equal "the file" "$(node exec worker-1 cat /etc/example.d/live)" live
equal reboots "$(reboots worker-1)" 0

example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
move worker-1 "$POOL"
unpause "$POOL"
expect 600 "worker-1 to be updated" pool_is_updated "$POOL" 1
equal reboots "$(reboots worker-1)" 1
autofs_is_active worker-1 || die "autofs.service is not active"
agent_is_in_a_container || die "the agent does not run in a container after the reboot"
