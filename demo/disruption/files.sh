# Checks of docs/disruption.md: files, directories and links.
# shellcheck shell=bash

change_file_nobody_reads() { file /etc/example.conf one; }
effect_file_nobody_reads() { contains "$1" /etc/example.conf one; }
undo_file_nobody_reads() { without_row; }

change_file_of_a_service() { file /etc/ssh/sshd_config.d/50-row.conf '%23'; }
effect_file_of_a_service() { contains "$1" /etc/ssh/sshd_config.d/50-row.conf '#'; }

prepare_file_removed() { file /etc/ssh/sshd_config.d/60-row.conf '%23'; }
change_file_removed() { without_row; }
effect_file_removed() { is_absent "$1" /etc/ssh/sshd_config.d/60-row.conf; }

change_file_that_asks_for_a_restart() { file /etc/chrony.conf 'pool%20time.example'; }
effect_file_that_asks_for_a_restart() { contains "$1" /etc/chrony.conf 'pool time.example'; }
undo_file_that_asks_for_a_restart() { without_row; }

change_file_of_a_stopped_service() { file /etc/rsyslog.d/50-row.conf '%23'; }
effect_file_of_a_stopped_service() { contains "$1" /etc/rsyslog.d/50-row.conf '#'; }
undo_file_of_a_stopped_service() { without_row; }

prepare_file_of_the_image() { file /etc/debian_version mine; }
change_file_of_the_image() { without_row; }
effect_file_of_the_image() { node exec "$1" cmp --quiet /etc/debian_version /usr/etc/debian_version; }

prepare_file_spelled_differently() { file /etc/ssh/sshd_config.d/50-row.conf one; }
change_file_spelled_differently() {
    machine_config 50-row worker <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - path: /etc/ssh/sshd_config.d/50-row.conf
        user: {name: root}
        overwrite: true
        contents: {source: "data:;base64,b25l"}
YAML
    mark
}
undo_file_spelled_differently() { without_row; }

change_directory() {
    machine_config 50-row worker <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    directories: [{path: /etc/example.d, mode: 488}]
    links: [{path: /etc/example.d/link, target: /etc/motd}]
YAML
}
effect_directory() {
    [ "$(node exec "$1" stat -c %a /etc/example.d)" = 750 ] &&
        [ "$(node exec "$1" readlink /etc/example.d/link)" = /etc/motd ]
}
undo_directory() { without_row; }
