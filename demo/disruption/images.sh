# Checks of docs/disruption.md: what reboots. The rows stand at the end of the table; each takes up what the one before
# it left.
# shellcheck shell=bash

change_kernel_argument() {
    machine_config 60-row worker <<'YAML'
kernelArguments: [row=1, quiet]
YAML
}
effect_kernel_argument() { boots_with "$1" row=1 1; }

change_kernel_argument_repeated() {
    machine_config 60-row worker <<'YAML'
kernelArguments: ["quiet row=1", quiet]
YAML
    mark
}

change_kernel_argument_and_file() {
    machine_config 60-row worker <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/chrony.conf, mode: 420, contents: {source: "data:,both"}}
  systemd:
    units: [{name: idle.service, enabled: true}]
YAML
}
effect_kernel_argument_and_file() {
    boots_with "$1" row=1 0 && contains "$1" /etc/chrony.conf both && is_active "$1" idle.service
}

# boots_with NODE ARGUMENT TIMES: so often has the deployment that it was booted from the argument. A container's kernel
# is the machine's own, so its boot loader entry tells.
boots_with() {
    local entries=$STATE/nodes/$1/sysroot/boot/loader/entries entry
    entry=$(grep -H '^version ' "$entries"/*.conf | sort -t' ' -k2,2rn | head -n1 | cut -d: -f1)
    [ "$(sed -n 's/^options //p' "$entry" | tr ' ' '\n' | grep -cx -- "$2")" = "$3" ]
}

# The layered image serves as another base image: it is one.
change_base_image_of_a_plain_pool() {
    # The layered pool stays on its own.
    machine_config 70-row-base-automount "$POOL" <<YAML
osImageURL: $BASE_IMAGE
YAML
    machine_config 70-row-base worker <<YAML
osImageURL: $(image_of "$POOL")
YAML
}
effect_base_image_of_a_plain_pool() { has_file "$1" /usr/lib/systemd/system/autofs.service; }

change_base_image_of_a_layered_pool() {
    printf 'FROM %s\nLABEL variant=2\n' "$BASE_IMAGE" >"$STATE/Containerfile"
    "$CAPROCK" build --file "$STATE/Containerfile" --tag "$REGISTRY/os/debian:2" --push --iidfile "$STATE/iid" \
        --cache-dir "$STATE/cache" --authfile "$DATA/registry-auth.json" --ca-file "$DATA/pki/ca.crt" "$STATE/serve/pki"
    machine_config 70-row-base-automount "$POOL" <<YAML
osImageURL: $REGISTRY/os/debian@$(cat "$STATE/iid")
YAML
}
effect_base_image_of_a_layered_pool() { has_file "$1" /usr/lib/systemd/system/autofs.service; }

# containerfile LINE: the example's, with one more line.
containerfile() {
    kubectl get "machineosconfig/$POOL" -o json |
        jq --arg line "$1" '.spec.containerFile[0].content |= (sub("\n# row\n.*$"; ""; "m") + "\n# row\n" + $line + "\n")' |
        kubectl replace -f -
}

change_containerfile() { containerfile 'RUN echo two >/usr/share/row'; }
effect_containerfile() { contains "$1" /usr/share/row two; }

# The unit exists only in the image to come.
change_image_and_units() {
    containerfile "RUN printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' >/usr/lib/systemd/system/inside.service"
    machine_config 70-row-units "$POOL" <<'YAML'
config:
  ignition: {version: 3.4.0}
  storage:
    files:
      - {path: /etc/inside.conf, mode: 420, contents: {source: "data:,inside"}}
  systemd:
    units: [{name: inside.service, enabled: true}]
YAML
}
effect_image_and_units() { is_active "$1" inside.service && contains "$1" /etc/inside.conf inside; }

prepare_containerfile_back() { kubectl delete mc 70-row-units; }
change_containerfile_back() { containerfile 'RUN echo two >/usr/share/row'; }
effect_containerfile_back() { contains "$1" /usr/share/row two && ! has_file "$1" /usr/lib/systemd/system/inside.service; }

# What only the layered image has cannot stay enabled without it.
prepare_revert() { kubectl delete mc 99-worker-automount-autofs; }
change_revert() { kubectl delete "machineosconfig/$POOL"; }
effect_revert() { ! has_file "$1" /usr/lib/systemd/system/autofs.service; }

has_file() { node exec "$1" test -e "$2"; }
