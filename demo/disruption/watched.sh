# Services that rows of docs/disruption.md reload and restart, and how files and units come and go. Sourced.
# shellcheck shell=bash

# Names that the agent knows files of stand for the real services, which the demo's image has not, or not in a container.
WATCHED=(ssh.service chronyd.service crio.service probe.service)

# services_to_watch: spec of a MachineConfig with one process for each name, which lives through a reload.
services_to_watch() {
    local name
    units_spec
    for name in "${WATCHED[@]}"; do
        # In place of the image's drop-in of that name, which keeps ssh.service from running in a container.
        unit_entry "$name" 'enabled: true
        dropins: [{name: 10-own-network.conf, contents: "# Runs anywhere."}]' <<<"$(watched_unit "Stand-in for ${name%.service}")"
    done
    # Here, and not to be started.
    unit_entry idle.service "enabled: false" <<<"$(watched_unit 'A unit that is there')"
}

watched_unit() {
    cat <<UNIT
[Unit]
Description=$1
[Service]
ExecStart=/bin/sleep infinity
ExecReload=/bin/true
[Install]
WantedBy=multi-user.target
UNIT
}

# units_spec: how a spec begins whose units follow.
units_spec() { printf 'config:\n  ignition: {version: 3.4.0}\n  systemd:\n    units:\n'; }

# unit_entry NAME FIELDS: one entry of systemd.units with the text on stdin.
unit_entry() {
    printf '      - name: %s\n        %s\n        contents: |\n' "$1" "$2"
    sed 's/^/          /'
}

# file PATH TEXT [NAME]: writes MachineConfig 50-row, or NAME, whose only file is PATH.
file() {
    machine_config "${3:-50-row}" worker <<YAML
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: $1, mode: 420, overwrite: true, contents: {source: "data:,$2"}}
YAML
}

# unit FIELDS: writes MachineConfig 50-row, whose only unit has FIELDS, as an inline YAML mapping.
unit() {
    machine_config 50-row worker <<YAML
config:
  ignition: {version: 3.4.0}
  systemd:
    units:
      - $1
YAML
}

# mark: changes a file that nobody reads. What changes nothing has no new target by itself, and is proven by this one's:
# it was rendered with it.
mark() {
    MARK=$((${MARK:-0} + 1))
    file /etc/mark "$MARK" 55-mark
}

without_row() { kubectl delete mc 50-row; }

contains() { node exec "$1" grep -qxF -- "$3" "$2"; }
is_absent() { ! node exec "$1" test -e "$2"; }
is_active() { node exec "$1" systemctl is-active --quiet "$2"; }
