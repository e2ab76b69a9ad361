#!/bin/sh
# Leaves a deployment on trial when nobody found it well: after too many boots (`count`, early in each boot) or after too
# long a boot (`check`, now and then). Apart from the agent on purpose: it has to work when the agent does not, so it needs
# a shell, the base tools and `ostree admin status`, and falls back to the host's own rollback when no caprock runs.
set -u
state=${CAPROCK_STATE_DIR:-/var/lib/caprock}
run=${CAPROCK_RUN_DIR:-/run/caprock}
trial=$state/trial

say() { echo "caprock-watch: $*" >&2; }
value() { sed -n "s/^$1=//p" "$trial" | head -n 1; }
# Prints a number, or 0 for anything else.
number() {
    case $1 in
        '' | *[!0-9]*) echo 0 ;;
        *) echo "$1" ;;
    esac
}
# Seconds since the machine started; only differences are used, for a container has its host's.
uptime() { cut -d. -f1 /proc/uptime; }

reboot_now() {
    systemctl reboot || systemctl --force reboot
    exit
}

# Chooses the previous deployment with the host's own tools.
host_rollback() {
    if command -v rpm-ostree >/dev/null && timeout 300 rpm-ostree rollback; then return 0; fi
    if command -v bootc >/dev/null && timeout 300 bootc rollback; then return 0; fi
    # `* os checksum.serial` and `  os checksum.serial (note)`, in boot order.
    index=$(ostree admin status | grep -E '^[* ] [^ ]+ [0-9a-f]+\.[0-9]+' | grep -n -F " $(value previous)" | cut -d: -f1)
    [ -n "$index" ] && ostree admin set-default $((index - 1))
}

leave() {
    reason=$1
    if [ -s "$state/said" ]; then reason="$reason; the agent said: $(head -c 1000 "$state/said")"; fi
    say "$booted is left: $reason"
    # The program that made the deployment first: the one on the path may be what is broken.
    for caprock in "$state/rescue/caprock" /usr/local/bin/caprock /usr/bin/caprock; do
        [ -x "$caprock" ] || continue
        timeout 300 "$caprock" agent --take-back "$reason"
        case $? in
            0) reboot_now ;;
            1)
                say "there is no way back; the trial ends here"
                rm -f "$trial"
                exit 0
                ;;
        esac
    done
    printf '%s\n' "$reason" >"$state/taken-back"
    sync
    if host_rollback; then reboot_now; fi
    say "cannot choose the previous deployment; trying again later"
    exit 1
}

[ -s "$trial" ] || exit 0
booted=$(ostree admin status | sed -n 's/^\* [^ ]* \([0-9a-f]*\.[0-9]*\).*/\1/p')
[ -n "$booted" ] && [ "$booted" = "$(value deployment)" ] || exit 0
mkdir -p "$run"
since=$run/trial-since
case ${1:-} in
    count)
        uptime >"$since"
        boots=$(($(number "$(value boots)") + 1))
        sed "s/^boots=.*/boots=$boots/" "$trial" >"$trial.new" && sync "$trial.new" && mv "$trial.new" "$trial" && sync "$state"
        limit=$(number "$(value limit)")
        if [ "$boots" -gt "$limit" ]; then leave "it was booted $limit times and never found well"; fi
        ;;
    check)
        [ -s "$since" ] || uptime >"$since"
        deadline=$(number "$(value deadline)")
        passed=$(($(uptime) - $(number "$(cat "$since")")))
        if [ "$passed" -ge "$deadline" ]; then leave "it was not found well within $deadline seconds of its boot"; fi
        ;;
    *)
        say "expected count or check"
        exit 2
        ;;
esac
