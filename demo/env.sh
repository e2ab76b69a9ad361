# Where the demo keeps things and how its scripts speak. Sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
TOOLS=$TARGET/tools
PATH=$TOOLS:$PATH:/usr/sbin:/sbin

# Words go to stderr, so that a script's result on stdout stays alone.
step() { printf '==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_root() { [ "$(id -u)" -eq 0 ] || die "this needs root: run it with sudo"; }

port_is_free() { [ -z "$(ss -Hltn "sport = :$1")" ]; }

# Prints PORT, or the next one ten thousand higher that nobody listens on.
free_port() {
    local port
    for port in "$1" $(($1 + 10000)) $(($1 + 20000)) $(($1 + 30000)); do
        if port_is_free "$port"; then
            printf '%s\n' "$port"
            return
        fi
    done
    die "port $1 is taken, and so are its stand-ins up to $port"
}

# poll SECONDS WHAT COMMAND...: runs COMMAND until it succeeds; false at the deadline.
# Says what it waits for once it has waited a moment, and again every ten seconds. Limits are for
# what will never come: nothing is judged by its time, so they leave room for a busy machine.
poll() {
    local limit=$1 what=$2 began=$SECONDS said=-8 waited
    shift 2
    until "$@"; do
        waited=$((SECONDS - began))
        [ "$waited" -lt "$limit" ] || return 1
        if [ "$((waited - said))" -ge 10 ]; then
            said=$waited
            note "waiting for $what (${waited} of at most ${limit} s)"
        fi
        # Often at first; later so that the looking does not slow down what is waited for.
        sleep "0.$((waited < 2 ? 1 : 5))"
    done
}

# watched LOG WHAT COMMAND...: runs a long COMMAND with its output in LOG and a line of
# progress every ten seconds.
watched() {
    local log=$1 what=$2 began=$SECONDS said=$SECONDS pid code=0
    shift 2
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    # A background process of a script does not get Ctrl-C by itself.
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$((SECONDS - said))" -ge 10 ]; then
            said=$SECONDS
            note "$what, $((said - began)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
        fi
        sleep 0.2
    done
    wait "$pid" || code=$?
    trap - INT TERM
    return "$code"
}

# run_logged LOG WHAT COMMAND...: the same, and shows the end of LOG when it fails.
run_logged() {
    watched "$@" || {
        tail -n 30 "$1" >&2
        die "$2 failed; the whole log is $1"
    }
}

# remove_sysroots DIR: removes DIR and the ostree sysroots in it, whose deployments ostree marks immutable.
remove_sysroots() {
    [ -e "$1" ] || return 0
    make_removable "$1"
    rm -rf --one-file-system "${1:?}"
}

# make_removable DIR: clears the immutable flag that ostree gives a deployment's root.
make_removable() {
    find "$1" -xdev -path '*/ostree/deploy/*/deploy/*' -prune -name '*.[0-9]*' -type d -exec chattr -i {} +
}
