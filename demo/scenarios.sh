#!/usr/bin/env bash
# Runs the scenarios on real nodes: every file of demo/scenarios, or those named. Each has a state folder of its own.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

need_root
CAPROCK=${CAPROCK:-$TARGET/release/caprock}
export CAPROCK
logs=$TARGET/demo/scenarios
mkdir -p "$logs"
passed=0 failed=0
[ $# -gt 0 ] || set -- "$ROOT"/demo/scenarios/*.sh

for file in "$@"; do
    name=$(basename "$file" .sh)
    began=$SECONDS
    step "scenario $name"
    if DEMO_STATE=$TARGET/demo/state-$name bash "$ROOT/demo/scenarios/$name.sh" >"$logs/$name.log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        note "ok, $((SECONDS - began)) s"
    else
        failed=$((failed + 1))
        note "FAILED after $((SECONDS - began)) s; the end of $logs/$name.log:"
        tail -n 40 "$logs/$name.log" >&2
        # What is shown of the state above may be long; this says what was wrong.
        note "$name failed: $(grep '^error: ' "$logs/$name.log" || echo 'no error was printed, see its log')"
    fi
done
printf '%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
