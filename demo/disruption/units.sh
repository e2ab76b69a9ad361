# Checks of docs/disruption.md: units, keys and passwords.
# shellcheck shell=bash

# new_unit DESCRIPTION: writes MachineConfig 50-row, whose only unit is new.service.
new_unit() {
    {
        units_spec
        unit_entry new.service 'enabled: true' <<<"$(watched_unit "$1")"
    } | machine_config 50-row worker
}

change_unit_new() { new_unit 'A new unit'; }
effect_unit_new() { is_active "$1" new.service; }

# Takes up what unit-new left.
change_unit_text() { new_unit 'Another text'; }
effect_unit_text() { [ "$(node exec "$1" systemctl show --value --property=Description new.service)" = 'Another text' ]; }

change_unit_removed() { without_row; }
effect_unit_removed() { is_absent "$1" /etc/systemd/system/new.service; }

change_unit_enabled() { unit '{name: idle.service, enabled: true}'; }
effect_unit_enabled() { [ "$(node exec "$1" systemctl is-enabled idle.service)" = enabled ]; }

change_unit_disabled() { without_row; }
effect_unit_disabled() { [ "$(node exec "$1" systemctl is-enabled idle.service)" = disabled ]; }

change_unit_masked() { unit '{name: probe.service, enabled: false, mask: true}'; }
effect_unit_masked() { [ "$(node exec "$1" systemctl is-enabled probe.service)" = masked ]; }

change_unit_unmasked() { without_row; }
effect_unit_unmasked() { is_active "$1" probe.service; }

change_drop_in() {
    unit '{name: probe.service, dropins: [{name: 10-row.conf, contents: "[Service]\nEnvironment=ROW=1\n"}]}'
}
effect_drop_in() { node exec "$1" systemctl show --property=Environment probe.service | grep -q ROW=1; }
undo_drop_in() { without_row; }

KEY='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7bqR4mmEcG6bDRcXP3ZMJ0ZyBRrnKQ4FjXzZ8D0Zbl row'
# shellcheck disable=SC2016 # a hash, no variables
HASH='$6$row$Qx0Y0dJ1V2QYQm3mJc0nS4m0k1b9Y8m7E6y5T4r3e2w1q0Z9X8c7V6b5N4m3L2k1j0H9G8f7D6s5A4p3o2I1u0'

change_ssh_key() {
    machine_config 50-row worker <<YAML
config:
  ignition: {version: 3.4.0}
  passwd:
    users: [{name: core, sshAuthorizedKeys: ["$KEY"]}]
YAML
}
effect_ssh_key() { contains "$1" /home/core/.ssh/authorized_keys "$KEY"; }
undo_ssh_key() { without_row; }

change_password() {
    machine_config 50-row worker <<YAML
config:
  ignition: {version: 3.4.0}
  passwd:
    users: [{name: core, passwordHash: '$HASH'}]
YAML
}
effect_password() { [ "$(node exec "$1" sed -n 's/^core:\([^:]*\):.*/\1/p' /etc/shadow)" = "$HASH" ]; }
undo_password() { without_row; }
