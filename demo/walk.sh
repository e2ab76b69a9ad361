# How a walk-through tells what it does: phases with their times, commands as one would type them, and objects as they
# change. Sourced after `cluster.sh`.
# shellcheck shell=bash

declare -A SECONDS_OF=()
PHASES=()

# begin PHASE TEXT: ends the phase before it and starts the clock of the next.
begin() {
    finish
    PHASE=$1 PHASE_BEGAN=${EPOCHREALTIME/./}
    PHASES+=("$1")
    step "$2"
}

finish() {
    [ -z "${PHASE:-}" ] || SECONDS_OF[$PHASE]=$(awk -v us=$((${EPOCHREALTIME/./} - PHASE_BEGAN)) 'BEGIN { printf "%.1f", us / 1e6 }')
    PHASE=
}

# The phases that are over, and how long each took.
print_times() {
    local phase
    printf '\n%-12s %9s\n' PHASE SECONDS
    for phase in "${PHASES[@]}"; do printf '%-12s %9s\n' "$phase" "${SECONDS_OF[$phase]}"; done
    printf '%-12s %9s\n' total "$(printf '%s\n' "${SECONDS_OF[@]}" | awk '{ sum += $1 } END { printf "%.1f", sum }')"
}

# say COMMAND...: shows a command as one would type it, and runs it.
say() {
    show "$@"
    "$@"
}

show() {
    local word line='$'
    for word in "$@"; do
        case $word in
            *\'*) line+=" \"$word\"" ;;
            *[\ \{\}\"]*) line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "$line"
}

# inside NODE COMMAND...: runs a command in a node.
inside() {
    show demo/node.sh exec "$@"
    node exec "$@"
}

# watch_until SECONDS KIND WHAT COMMAND...: shows objects of a kind as they change, until COMMAND succeeds.
watch_until() {
    local limit=$1 kind=$2 what=$3
    shift 3
    printf '$ kubectl get %s --watch\n' "$kind"
    kubectl get "$kind" --watch 2>/dev/null > >(print_news) &
    WATCHER=$!
    poll "$limit" "$what" "$@" || die "$what: not within $limit s"
    sleep 0.2
    kill "$WATCHER"
    wait "$WATCHER" 2>/dev/null || true
    WATCHER=
}

# Drops rows that say nothing new: the same but for the age in the last column.
print_news() {
    local row name
    local -A seen=()
    while IFS= read -r row; do
        name=${row%% *}
        [ "${seen[$name]:-}" != "${row% *}" ] || continue
        seen[$name]=${row% *}
        printf '%s\n' "$row"
    done
}

build_has_ended() {
    local found
    found=$(ended_builds)
    case $found in
        Succeeded*) return 0 ;;
        '') return 1 ;;
        *) die "the build ended as $found" ;;
    esac
}

node_has_moved() { [ "$(field "mcp/$POOL" .status.machineCount)" = 1 ]; }
