#!/bin/sh
# Plays `bootc`, `rpm-ostree` and `ostree` on one host, as much as the agent asks of them. The host is a directory: its
# deployments are lines of `deployments` in boot order, "ROLE CHECKSUM SERIAL IMAGE", its pulled images lines of `images`,
# kernel arguments those of `boot/loader/entries`, and of `pending-kargs` for what is staged.
#
# Each call is a line of `calls`. `fail` may hold "N before" or "N after": the N-th call that changes something then fails
# before or after its effect.
set -eu
tool=${0##*/}
host=$(dirname "$(dirname "$0")")
cd "$host"
echo "$tool $*" >>calls

die() { echo "error: $*" >&2; exit 1; }

# Does the rest of the line, unless this call is to fail.
change() {
    n=$(($(cat changes 2>/dev/null || echo 0) + 1))
    echo "$n" >changes
    set -- "$@"
    case "$(cat fail 2>/dev/null || true)" in
        "$n before") die "told to fail before call $n" ;;
        "$n after") "$@"; die "told to fail after call $n" ;;
        *) "$@" ;;
    esac
}

digest_of() { echo "$1" | sed -n 's/.*\(sha256:[0-9a-f]\{64\}\).*/\1/p'; }
checksum_of() { printf %s "$1" | sed 's/sha256://'; }
booted() { grep '^booted ' deployments; }
booted_kargs() { sed -n 's/^options \(.*\) ostree=.*/\1/p' boot/loader/entries/ostree-2-test.conf; }
kargs() { if [ -f pending-kargs ]; then cat pending-kargs; else booted_kargs; fi; }

unstage() {
    grep -v '^staged ' deployments >deployments.new || true
    mv deployments.new deployments
    rm -f pending-kargs
}
stage() {
    image=$1
    grep -q "^$image$" images || echo "$image" >>images
    unstage
    checksum=$(checksum_of "$image")
    serial=$(grep -c " $checksum " deployments || true)
    { echo "staged $checksum $serial $image"; cat deployments; } >deployments.new
    mv deployments.new deployments
    booted_kargs >pending-kargs
}
edit_kargs() {
    now=$(kargs)
    for argument; do
        case $argument in
            --append-if-missing=* | --karg-append=*)
                value=${argument#*=}
                case " $now " in *" $value "*) [ "${argument%%=*}" = --karg-append ] && now="$now $value" ;; *) now="$now $value" ;; esac
                ;;
            --delete-if-present=* | --karg-delete=*)
                now=$(printf '%s\n' $now | grep -v -x -F -- "${argument#*=}" | tr '\n' ' ')
                ;;
        esac
    done
    echo "$now" | tr -s ' ' | sed 's/^ //; s/ $//' >pending-kargs
}
swap() {
    unstage
    { sed -n 2p deployments; sed -n 1p deployments; } >deployments.new
    mv deployments.new deployments
}

rollback_queued() { ! head -n 1 deployments | grep -q '^booted \|^staged '; }

case "$tool $1" in
    *' --version') echo "$tool 1" ;;
    'bootc status')
        entry() {
            [ -n "$*" ] || { printf null; return; }
            printf '{"image":{"image":{"image":"r.example/os","transport":"registry"},"imageDigest":"%s","architecture":"amd64"},"incompatible":false,"pinned":false,"ostree":{"stateroot":"test","checksum":"%s","deploySerial":%s}}' "$4" "$2" "$3"
        }
        queued=false
        if rollback_queued; then queued=true; fi
        printf '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","status":{"type":"bootcHost","rollbackQueued":%s,"staged":' $queued
        entry $(grep '^staged ' deployments || true)
        printf ',"booted":'
        entry $(booted)
        printf ',"rollback":'
        entry $(grep '^other ' deployments | head -n 1)
        printf '}}\n'
        ;;
    'bootc switch') change stage "$(digest_of "$*")" ;;
    'bootc rollback') change swap ;;
    'rpm-ostree status')
        printf '{"deployments":['
        comma=
        while read -r role checksum serial image; do
            printf '%s{"osname":"test","checksum":"%s","serial":%s,"booted":%s,"staged":%s,"container-image-reference-digest":"%s"}' "$comma" "$checksum" "$serial" \
                "$([ "$role" = booted ] && echo true || echo false)" "$([ "$role" = staged ] && echo true || echo false)" "$image"
            comma=,
        done <deployments
        # A transaction of somebody else takes as many looks as the file says.
        left=$(cat busy 2>/dev/null || echo 0)
        if [ "$left" -gt 0 ]; then
            echo $((left - 1)) >busy
            printf '],"transaction":["upgrade",":1.7","/"]}\n'
        else
            printf '],"transaction":null}\n'
        fi
        ;;
    'rpm-ostree cancel') echo 0 >busy ;;
    'rpm-ostree rebase')
        image=$(digest_of "$*")
        if head -n 1 deployments | grep -q " $image$"; then die "Old and new refs are equal: $image"; fi
        change stage "$image"
        ;;
    'rpm-ostree cleanup') change unstage ;;
    'rpm-ostree rollback') change swap ;;
    'rpm-ostree kargs')
        shift
        if [ $# -eq 0 ]; then kargs; else
            [ -f pending-kargs ] || stage "$(booted | cut -d' ' -f4)"
            change edit_kargs "$@"
        fi
        ;;
    'ostree container')
        pull() { image=$(digest_of "$1"); grep -q "^$image$" registry || die "manifest unknown"; echo "$image" >>images; }
        case $3 in
            pull) change pull "$*" ;;
            prune-layers) ;;
            *) die "$*" ;;
        esac
        ;;
    'ostree refs')
        forget() { grep -v "^sha256:$1$" images >images.new || true; mv images.new images; }
        case "$*" in
            *--list*) sed 's,sha256:,ostree/container/image/,' images ;;
            *--delete*) change forget "${*##*/}" ;;
        esac
        ;;
    'ostree show') echo "'sha256:${*##*/}'" ;;
    'ostree admin')
        restage() { stage "$(booted | cut -d' ' -f4)"; edit_kargs "$@"; }
        case $2 in
            cleanup) ;;
            undeploy) change unstage ;;
            deploy) change restage "$@" ;;
            *) die "$*" ;;
        esac
        ;;
    *) die "nobody plays $tool $*" ;;
esac
