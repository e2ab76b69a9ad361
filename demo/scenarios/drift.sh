# A file that somebody else changes on a node: reported with what differs, and told no more when it is as it was; put back
# where the pool's RolloutPolicy says so.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

write_motd() { node exec worker-1 sh -c "printf %s '$1' >/etc/motd"; }
motd_is() { [ "$(node exec worker-1 cat /etc/motd)" = "$1" ]; }
degraded_because() { state_is worker-1 Degraded && annotation worker-1 reason | grep -qF -- "$1"; }

with_nodes worker-1
original=$(node exec worker-1 cat /etc/motd)

step "somebody changes a file"
write_motd 'by hand'
# shellcheck disable=SC2016 # words of a message
expect 300 "worker-1 to say what differs" degraded_because '`/etc/motd` has other content: `-'"$original"'` `+by hand`'

step "somebody puts it back"
write_motd "$original
"
expect 300 "worker-1 to be well again" state_is worker-1 Done

step "the policy says that drift is put back"
rollout_policy worker <<<'drift: Heal'
write_motd 'by hand'
expect 300 "the motd to be put back" motd_is "$original"
expect 300 "worker-1 to be well" state_is worker-1 Done
is_told() {
    kubectl get events --namespace default -o json |
        jq -e '[.items[] | select(.reason == "ConfigDriftHealed")] | length > 0' >/dev/null
}
expect 120 "an event that tells of it" is_told
equal reboots "$(reboots worker-1)" 0
