# docs/disruption.md, row by row, on one booted node of a plain pool and one of a layered pool: each change is made and
# what it did to the nodes is compared with the columns of its row. A row without a check fails, and so does a check
# without a row. ROWS="id id…" tries only those.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"
for part in "$ROOT"/demo/disruption/*.sh; do
    # shellcheck source=/dev/null # checked on their own
    . "$part"
done

TABLE=$ROOT/docs/disruption.md
# Nodes and their pools; a row is tried in the pools that it names.
declare -A POOL_OF=([worker-1]=worker [worker-2]=$POOL)
declare -A WRONG=()

# rows: every row of the document as `id|pools|builds|reboots|drains|services`.
rows() {
    awk -F' *[|] *' '$2 ~ /^`[a-z-]+`$/ { gsub(/`/, ""); print $2 "|" $4 "|" $5 "|" $6 "|" $7 "|" $8 }' "$TABLE"
}

checks() { declare -F | sed -n 's/^declare -f change_//p' | tr _ -; }

# has_function PREFIX ID: sets FUNCTION.
has_function() {
    FUNCTION=$1_${2//-/_}
    declare -F "$FUNCTION" >/dev/null
}

# --- what a change did ----------------------------------------------------------------------------

# drains NODE: how many of the updates that were looked at have drained it. Each asks in its end to be uncordoned, for its own
# config; another image of the same config is another update. A drain is asked for by the controller or by the agent.
drains() {
    local seen=$STATE/drains.$1 asks
    asks=$(annotation "$1" desiredDrain)
    [ -e "$seen" ] || : >"$seen"
    asks="$asks $(annotation "$1" currentImage)"
    if [[ $asks == uncordon-* && $asks != "$(tail -n 1 "$seen")" ]]; then echo "$asks" >>"$seen"; fi
    wc -l <"$seen"
}

# services NODE: systemd's own account of every service, and when it read its units last.
services() {
    node exec "$1" systemctl show --property=UnitsLoadTimestampMonotonic
    node exec "$1" systemctl show '*.service' --property=Id,ActiveState,InvocationID,ExecReload
}

# actions BEFORE AFTER: what happened to services between two accounts, one line each, sorted. The agent's own units and
# what has ended by itself do not count.
actions() {
    awk -F= '
        FNR == 1 { account++ }
        $1 == "UnitsLoadTimestampMonotonic" { loaded[account] = $2; next }
        NF > 0 { value[$1] = substr($0, length($1) + 2) }
        NF == 0 {
            id = value["Id"]
            if (id == "") next
            seen[id]
            active[account, id] = value["ActiveState"] == "active"
            run[account, id] = value["InvocationID"]
            reload[account, id] = value["ExecReload"]
            split("", value)
        }
        END {
            if (loaded[1] != loaded[2]) print "daemon-reload"
            for (id in seen) {
                if (id ~ /^caprock-/) continue
                was = active[1, id]; is = active[2, id]
                if (!was && is) print "start " id
                else if (was && !is) print "stop " id
                else if (was && run[1, id] != run[2, id]) print "restart " id
                # A daemon-reload forgets when a service was reloaded.
                else if (was && reload[1, id] != reload[2, id] && reload[2, id] !~ /pid=0 /) print "reload " id
            }
        }
    ' <(cat "$1"; echo) <(cat "$2"; echo) | LC_ALL=C sort
}

account() {
    local name
    kubectl get machineosbuild -o name | LC_ALL=C sort >"$STATE/$1.builds"
    for name in "${!POOL_OF[@]}"; do
        printf '%s %s\n' "$(reboots "$name")" "$(drains "$name")" >"$STATE/$1.$name"
        services "$name" >"$STATE/$1.$name.services"
    done
}

# --- waiting for it -------------------------------------------------------------------------------

target() { printf '%s %s' "$(field "mcp/$1" .spec.configuration.name)" "$(image_of "$1")"; }
image_of() { field "machineosconfig/$1" .status.currentImagePullSpec; }

has_target() { [ "$(annotation "$1" currentConfig) $(annotation "$1" currentImage)" = "$2" ] && state_is "$1" Done; }

# new_target POOL OLD BUILT: config or image of the pool is not the old one any more; the image, when one is built.
new_target() {
    local now
    now=$(target "$1")
    [ "$now" != "$2" ] && { [ "$3" = 0 ] || [ "${now#* }" != "${2#* }" ]; }
}

arrived() { has_target "$1" "$(target "${POOL_OF[$1]}")" && pool_is_updated "${POOL_OF[$1]}" 1; }

# nodes_of POOLS: `every`, `plain` or `layered`.
nodes_of() {
    case $1 in
        every) printf 'worker-1\nworker-2\n' ;;
        plain) printf 'worker-1\n' ;;
        layered) printf 'worker-2\n' ;;
        *) die "$TABLE: pools \`$1\`, where every, plain or layered was expected" ;;
    esac
}

# move_to_new_target VERB ID POOLS BUILT: runs `VERB_ID` and waits until the nodes of its pools are there.
move_to_new_target() {
    local name old
    declare -A old
    for name in $(nodes_of "$3"); do old[$name]=$(target "${POOL_OF[$name]}"); done
    has_function "$1" "$2" && "$FUNCTION"
    for name in $(nodes_of "$3"); do
        expect 300 "a new target of $name for $2" new_target "${POOL_OF[$name]}" "${old[$name]}" "$4"
        expect 600 "$name to be updated for $2" arrived "$name"
    done
}

# --- one row --------------------------------------------------------------------------------------

wrong() {
    WRONG[$1]=1
    note "WRONG $1: $2: $3, where $TABLE says $4"
}

# same ID WHAT SEEN DOCUMENTED
same() { [ "$3" = "$4" ] || wrong "$1" "$2" "$3" "$4"; }

try() {
    local id=$1 pools=$2 built=$3 rebooted=$4 drained=$5 wanted=$6 name before after began=$SECONDS
    if has_function prepare "$id"; then move_to_new_target prepare "$id" "$pools" 0; fi
    account before
    move_to_new_target change "$id" "$pools" "$built"
    account after
    # A build's object goes with its MachineOSConfig.
    same "$id" builds "$(LC_ALL=C comm -13 "$STATE/before.builds" "$STATE/after.builds" | wc -l)" "$built"
    for name in "${!POOL_OF[@]}"; do
        read -ra before <"$STATE/before.$name"
        read -ra after <"$STATE/after.$name"
        if ! nodes_of "$pools" | grep -qx "$name"; then
            same "$id" "reboots and drains of $name, which it does not concern" \
                "$((after[0] - before[0])) $((after[1] - before[1]))" '0 0'
            continue
        fi
        same "$id" "reboots of $name" "$((after[0] - before[0]))" "$rebooted"
        same "$id" "drains of $name" "$((after[1] - before[1]))" "$drained"
        if [ "$rebooted" = 0 ]; then
            same "$id" "services of $name" \
                "$(actions "$STATE/before.$name.services" "$STATE/after.$name.services" | paste -sd, | sed 's/,/, /g')" "$wanted"
        fi
        if has_function effect "$id"; then "$FUNCTION" "$name" || wrong "$id" "effect on $name" missing 'that it is made'; fi
    done
    if has_function undo "$id"; then move_to_new_target undo "$id" "$pools" 0; fi
    note "$id: $((SECONDS - began)) s"
}

# --- all of them ----------------------------------------------------------------------------------

documented=$(rows | cut -d'|' -f1)
equal "rows with a check" "$(checks | LC_ALL=C sort)" "$(LC_ALL=C sort <<<"$documented")"

with_nodes "${!POOL_OF[@]}"
# Whose keys and password rows set; installers make it.
for name in "${!POOL_OF[@]}"; do node exec "$name" useradd --create-home core; done
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
move worker-2 "$POOL"
unpause "$POOL"
services_to_watch | machine_config 40-watched worker
expect 600 "worker-2 to be updated" arrived worker-2
expect 300 "worker-1 to be updated" arrived worker-1
for name in "${!POOL_OF[@]}"; do
    for service in "${WATCHED[@]}"; do
        node exec "$name" systemctl is-active --quiet "$service" || die "$service is not active on $name"
    done
done

while IFS='|' read -r id pools built rebooted drained wanted; do
    if [ -n "${ROWS:-}" ] && ! grep -qw -- "$id" <<<"$ROWS"; then continue; fi
    # The loop's own input is not for what the row runs.
    try "$id" "$pools" "$built" "$rebooted" "$drained" "${wanted/#–/}" </dev/null
done < <(rows)
[ "${#WRONG[@]}" -eq 0 ] || die "not as documented: ${!WRONG[*]}"
