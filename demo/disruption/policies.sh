# Checks of docs/disruption.md: what users say with node disruption policies, and registries.conf.
# shellcheck shell=bash

# policy SPEC: the whole nodeDisruptionPolicy, as an inline YAML mapping.
policy() {
    kubectl apply -f - <<YAML
apiVersion: operator.openshift.io/v1
kind: MachineConfiguration
metadata: {name: cluster}
spec: {nodeDisruptionPolicy: $1}
YAML
}

# policy_of_example ACTIONS: for the file that nobody reads.
policy_of_example() { policy "{files: [{path: /etc/example.conf, actions: [$1]}]}"; }

change_policy_none() {
    policy '{files: [{path: /etc/ssh, actions: [{type: None}]}]}'
    file /etc/ssh/sshd_config.d/50-row.conf '%23'
}
effect_policy_none() { contains "$1" /etc/ssh/sshd_config.d/50-row.conf '#'; }
undo_policy_none() { without_row; }

change_policy_reload() {
    policy_of_example '{type: Reload, reload: {serviceName: probe.service}}'
    file /etc/example.conf reload
}
effect_policy_reload() { contains "$1" /etc/example.conf reload; }

change_policy_restart() {
    policy_of_example '{type: Restart, restart: {serviceName: probe.service}}'
    file /etc/example.conf restart
}
effect_policy_restart() { contains "$1" /etc/example.conf restart; }

change_policy_daemon_reload() {
    policy_of_example '{type: Restart, restart: {serviceName: probe.service}}, {type: DaemonReload}'
    file /etc/example.conf daemon-reload
}
effect_policy_daemon_reload() { contains "$1" /etc/example.conf daemon-reload; }

change_policy_drain() {
    policy_of_example '{type: Drain}'
    file /etc/example.conf drain
}
effect_policy_drain() { contains "$1" /etc/example.conf drain && [ -z "$(field "node/$1" .spec.unschedulable)" ]; }

change_policy_reboot() {
    policy_of_example '{type: Reboot}'
    file /etc/example.conf reboot
}
effect_policy_reboot() { contains "$1" /etc/example.conf reboot; }
undo_policy_reboot() {
    policy '{}'
    without_row
}

change_policy_of_a_unit() {
    policy '{units: [{name: probe.service, actions: [{type: None}]}]}'
    unit '{name: probe.service, dropins: [{name: 10-row.conf, contents: "[Service]\nEnvironment=ROW=2\n"}]}'
}
undo_policy_of_a_unit() { without_row; }

change_policy_of_keys() {
    policy '{sshkey: {actions: [{type: Reload, reload: {serviceName: ssh.service}}]}}'
    change_ssh_key
}
effect_policy_of_keys() { effect_ssh_key "$1"; }
undo_policy_of_keys() {
    policy '{}'
    without_row
}

# registries TEXT: registries.conf of the nodes.
registries() { file /etc/containers/registries.conf "$(jq -sRr @uri <<<"$1")"; }

# mirrored WHICH: docker.example with a mirror for WHICH of its pulls.
mirrored() {
    registries "[[registry]]
location = \"docker.example\"
[[registry.mirror]]
location = \"mirror.example\"
pull-from-mirror = \"$1\""
}

change_registries_safe() { mirrored digest-only; }
effect_registries_safe() { node exec "$1" grep -q digest-only /etc/containers/registries.conf; }

change_registries_unsafe() { mirrored all; }
effect_registries_unsafe() { node exec "$1" grep -q '"all"' /etc/containers/registries.conf; }
undo_registries_unsafe() { without_row; }

# The cluster's own authority will do: what counts is that the host's tool has taken it up.
change_trust_anchor() {
    local data
    data=$(kubectl config view --raw --output 'jsonpath={.clusters[0].cluster.certificate-authority-data}')
    file /usr/local/share/ca-certificates/row.crt "$(base64 --decode <<<"$data" | jq -sRr @uri)"
}
effect_trust_anchor() { node exec "$1" test -e /etc/ssl/certs/row.pem; }
undo_trust_anchor() { without_row; }
