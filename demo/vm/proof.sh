# What must be true of the machine, shown as one would look at it. Sourced by `automount.sh`.
# shellcheck shell=bash

HOMES=/var/mnt/home

# shows PATTERN COMMAND...: runs COMMAND in the machine and shows it; what it prints must match PATTERN.
shows() {
    local wanted=$1 seen
    shift
    show demo/node.sh exec worker-1 "$@"
    seen=$(node exec worker-1 "$@") || die "\`$*\` fails on worker-1: $seen"
    printf '%s\n' "$seen"
    grep -qE -- "$wanted" <<<"$seen" || die "\`$*\` on worker-1: \`$wanted\` was expected"
}

boot_id() { node exec worker-1 cat /proc/sys/kernel/random/boot_id; }

worker_is_updated() {
    pool_is_updated "$POOL" 1 && return 0
    [ "$(condition "mcp/$POOL" Degraded)" != True ] || die "pool $POOL is degraded"
    return 1
}

prove_plain() {
    FIRST_BOOT=$(boot_id)
    shows 'Linux .*-cloud-' uname -a
    ! node exec worker-1 test -e /usr/sbin/automount || die "the plain image has autofs already"
    shows '^core$' printenv SUDO_USER
}

prove_one_reboot() {
    local ids
    mapfile -t ids < <(node exec worker-1 journalctl --list-boots --no-pager --output json | jq -r '.[].boot_id')
    [ "${#ids[@]}" -eq 2 ] || die "the machine's journal has ${#ids[@]} boots, not two: the plain image's and the layered one's"
    [ "${ids[0]}" = "${FIRST_BOOT//-/}" ] || die "the machine booted between the plain image and the layered one"
    [ "$(reboots worker-1)" = 1 ] || die "worker-1 has rebooted $(reboots worker-1) times, not once"
    [ "$(builds)" = 1 ] || die "there were $(builds) builds, not one"
    SECOND_BOOT=$(boot_id)
    say kubectl get nodes,mcp,machineosbuild
    shows '\* debian' ostree admin status
    shows '^core$' printenv SUDO_USER
}

prove_lookups() {
    shows '/usr/sbin/automount' ls /usr/sbin/automount /usr/sbin/sssd /usr/sbin/mount.nfs4 /usr/libexec/sssd/sssd_autofs
    shows '^active$' systemctl is-active sssd.service autofs.service
    shows '^dale:\*:1001:1001:Dale:/var/mnt/home/dale:' getent passwd dale
    shows 'instance type\(s\): sss' automount -m
    # Master maps of the directory are other machines': /home is not touched.
    ! node exec worker-1 grep -E '^[^ ]+ (/home|/var/home) autofs' /proc/mounts || die "the directory's master map is in use"
}

# kept_secret FILE: the password in FILE is in no layer of any image, and whoever may not read Secrets reads it nowhere.
kept_secret() {
    # A file, not a pipe: who writes into a pipe that nobody reads to its end fails, and so would the search.
    local blob kind looked=$STATE/looked-at
    while read -r blob; do
        zcat --force "$blob" >"$looked"
        ! grep -qaF -f "$1" "$looked" || die "the password is in $blob"
    done < <(find "$DATA/registry" -type f)
    note "the bind password is in none of the registry's $(find "$DATA/registry" -type f | wc -l) files"
    for kind in machineconfigs,machineconfigpools,machineconfignodes,machineosconfigs,machineosbuilds nodes events configmaps; do
        # Contents of files are in base64 there.
        kubectl get "$kind" --all-namespaces -o yaml >"$looked"
        ! grep -qF -e "$(cat "$1")" -e "$(in_base64 "$1")" "$looked" || die "the password is in one of: $kind"
    done
    ! grep -qaF -f "$1" "$STATE/serve.log" "$STATE/nodes/worker-1/console.log" || die "the password is in a log"
    node exec worker-1 journalctl --no-pager --output cat >"$looked"
    ! grep -qaF -f "$1" "$looked" || die "the password is in the node's journal"
    rm "$looked"
    note "nor in objects that are no Secrets, events, the server's log, the node's journal"
}

# The file with the password as a Secret's value or a data URL has it.
in_base64() { printf '[domain/site]\nldap_default_authtok = %s\n' "$(cat "$1")" | base64 --wrap=0; }

# The password is in a Secret, and on the node in a file for root.
prove_secret() {
    shows '^600 root /etc/sssd/conf.d/bind.conf$' stat --format '%a %U %n' /etc/sssd/conf.d/bind.conf
    node exec worker-1 grep -qF -f /dev/stdin /etc/sssd/conf.d/bind.conf <"$DIRECTORY/bind-password" ||
        die "bind.conf has not the password"
    kubectl get secret sssd-bind --namespace openshift-machine-config-operator -o 'jsonpath={.data.bind\.conf}' |
        grep -qxF "$(in_base64 "$DIRECTORY/bind-password")" || die "Secret sssd-bind has not the password as it is looked for"
    kept_secret "$DIRECTORY/bind-password"
}

# mounts NAME SOURCE: access mounts it, by NFS version 4. Looked at in one go: idle mounts go again.
mounts() {
    shows "^nfs\.example\.com:/exports/home/$2 $HOMES/$1 nfs4 .*vers=4" sh -c "ls -ld $HOMES/$1 && grep ' $HOMES/$1 ' /proc/mounts"
}

prove_mounts() {
    local owner
    mounts dale dale
    note "a key that only the wildcard has"
    mounts jill jill
    note "a key that is added to the map now"
    ldap ldapadd >/dev/null <<END
dn: cn=archive,ou=auto.home,ou=automount,dc=example,dc=com
objectClass: automount
cn: archive
automountInformation: -port=$NFS_PORT nfs.example.com:/exports/home/remy
END
    mounts archive remy
    shows "^1001 $HOMES/dale$" runuser -u dale -- sh -c "cd ~dale && echo hello >note && echo \$(id -u) \$(pwd)"
    owner=$(stat --format '%u' "$FILESERVER/homes/dale/note") || die "what dale wrote did not arrive at the file server"
    [ "$owner" = 1001 ] || die "what dale wrote belongs to $owner at the file server, not to 1001"
    note "at the file server:"
    (cd "$FILESERVER/homes" && ls -ln dale/note)
}

nothing_is_mounted() { ! node exec worker-1 cat /proc/1/mountinfo | grep -q " $HOMES/"; }

prove_expiry() {
    # Reading the mount table does not use a mount.
    poll 600 "idle homes to be unmounted" nothing_is_mounted || die "idle homes stay mounted"
    shows "$HOMES autofs" grep " $HOMES" /proc/mounts
}

has_new_shell() { node exec worker-1 getent passwd dale | grep -q ':/bin/sh$'; }

# Another option of sssd arrives while everything runs.
prove_live_change() {
    sed -i '/^cache_credentials/a override_shell = /bin/sh' "$RECIPE/base/site/sssd.conf"
    # Whoever runs the roll-out has begun it.
    sed -i 's/^  paused: true/  paused: false/' "$RECIPE/base/machineconfigpool.yaml"
    kubectl kustomize "$RECIPE/debian" >"$STATE/automount.yaml"
    show caprock plan -f automount.yaml
    caprock plan -f "$STATE/automount.yaml"
    kubectl apply -f "$STATE/automount.yaml" >/dev/null
    poll 600 "the new option to have an effect" has_new_shell || die "the change of sssd.conf did not arrive"
    watch_until 600 mcp "worker-1 to be updated" worker_is_updated
    shows ':/bin/sh$' getent passwd dale
    [ "$(boot_id)" = "$SECOND_BOOT" ] || die "the change of sssd.conf rebooted worker-1"
    [ "$(builds)" = 1 ] || die "the change of sssd.conf was built: $(builds) builds"
    mounts dale dale
    note "0 builds, 0 reboots"
}

has_password() { node exec worker-1 grep -qF -f /dev/stdin /etc/sssd/conf.d/bind.conf <"$1"; }

sssd_started() { node exec worker-1 systemctl show --property ExecMainStartTimestampMonotonic --value sssd.service; }

has_restarted() { [ "$(sssd_started)" != "$1" ]; }

is_done() { [ "$(field node/worker-1 '.metadata.annotations.machineconfiguration\.openshift\.io/state')" = Done ]; }

# The directory gets another password for the nodes, and the Secret too.
prove_rotation() {
    local started configuration
    started=$(sssd_started)
    configuration=$(field "mcp/$POOL" .spec.configuration.name)
    (umask 077 && openssl rand -hex 16 | tr -d '\n' >"$DIRECTORY/next-password")
    note "the directory takes no other password than the new one from now on"
    ldap ldappasswd -T /srv/next-password "$BIND_DN"
    sed -i "s|^ldap_default_authtok = .*|ldap_default_authtok = $(cat "$DIRECTORY/next-password")|" "$RECIPE/base/secret/bind.conf"
    show kubectl apply -k examples/automount-ldap/base/secret
    kubectl apply -k "$RECIPE/base/secret"
    poll 600 "the new password to be on the node" has_password "$DIRECTORY/next-password" || die "the new password did not arrive"
    poll 600 "sssd to be restarted" has_restarted "$started" || die "sssd was not restarted"
    # Nobody was asked for before: sssd has no answer of its own.
    poll 600 "an account that only the directory knows" node exec worker-1 getent passwd remy >/dev/null ||
        die "sssd does not get in with the new password"
    shows '^remy:\*:1003:1003:Remy:' getent passwd remy
    poll 600 "worker-1 to be done with it" is_done || die "worker-1 is not done with the new password"
    [ "$(field "mcp/$POOL" .spec.configuration.name)" = "$configuration" ] || die "another password rendered another config"
    [ "$(boot_id)" = "$SECOND_BOOT" ] || die "another password rebooted worker-1"
    [ "$(builds)" = 1 ] || die "another password was built: $(builds) builds"
    kept_secret "$DIRECTORY/next-password"
    note "0 builds, 0 reboots"
}
