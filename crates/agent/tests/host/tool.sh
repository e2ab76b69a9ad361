#!/bin/sh
# Plays `bootc`, `rpm-ostree`, `ostree` and `rpm` on one host, as much as the agent asks of them. The host is a directory: its
# deployments are lines of `deployments` in boot order, "ROLE CHECKSUM SERIAL IMAGE", its pulled images lines of `images`,
# kernel arguments those of `boot/loader/entries`, and of `pending-kargs` for what is staged. Packages on top of the image
# and without what of it are `booted-packages`, `booted-removals`, and `pending-…` for what is staged; `image-packages`
# are those that every image has.
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
    rm -f pending-kargs pending-packages pending-removals
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
    for what in packages removals; do cat booted-$what >pending-$what 2>/dev/null || true; done
}
edit_list() { # FILE +NAME|-NAME: as rpm-ostree, nothing twice and nothing away that is not there
    name=${2#?}
    case $2 in
        +*) if grep -q -x -F -- "$name" "$1"; then die "$name is already requested"; fi; echo "$name" >>"$1" ;;
        -*)
            grep -q -x -F -- "$name" "$1" || die "$name is not requested"
            grep -v -x -F -- "$name" "$1" >"$1.new" || true
            mv "$1.new" "$1"
            ;;
    esac
}
# SIGN FILE for names without an option; --install and --uninstall are for packages.
edit_packages() {
    sign=$1 list=$2
    shift 2
    for argument; do
        case $argument in
            --install=*) edit_list pending-packages "+${argument#*=}" ;;
            --uninstall=*) edit_list pending-packages "-${argument#*=}" ;;
            --*) ;;
            *)
                if [ "$list $sign" = 'pending-removals +' ]; then
                    grep -q -x -F -- "$argument" image-packages || die "$argument is not in the image"
                fi
                edit_list "$list" "$sign$argument"
                ;;
        esac
    done
}
layer() {
    [ -f pending-kargs ] || stage "$(booted | cut -d' ' -f4)"
    edit_packages "$@"
}
rebase() {
    image=$1
    shift
    stage "$image"
    edit_packages + pending-packages "$@"
}
names() { # FILE as the inside of a JSON list
    comma=
    while read -r name; do
        printf '%s"%s"' "$comma" "$name"
        comma=,
    done <"$1" 2>/dev/null || true
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
                # shellcheck disable=SC2086 # a line for each
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
            [ -n "$1" ] || { printf null; return; }
            # shellcheck disable=SC2086 # the fields of a line
            set -- $1
            soft=
            if [ -f soft ]; then soft="\"softRebootCapable\":$([ "$1" = staged ] && cat soft || echo false),"; fi
            printf '{"image":{"image":{"image":"r.example/os","transport":"registry"},"imageDigest":"%s","architecture":"amd64"},"incompatible":false,%s"pinned":false,"ostree":{"stateroot":"test","checksum":"%s","deploySerial":%s}}' "$4" "$soft" "$2" "$3"
        }
        queued=false
        if rollback_queued; then queued=true; fi
        printf '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","status":{"type":"bootcHost","rollbackQueued":%s,"staged":' $queued
        entry "$(grep '^staged ' deployments || true)"
        printf ',"booted":'
        entry "$(booted)"
        printf ',"rollback":'
        entry "$(grep '^other ' deployments | head -n 1)"
        printf '}}\n'
        ;;
    'bootc switch') change stage "$(digest_of "$*")" ;;
    'bootc rollback') change swap ;;
    'rpm-ostree status')
        printf '{"deployments":['
        comma=
        while read -r role checksum serial image; do
            of=none
            case $role in booted) of=booted ;; staged) of=pending ;; esac
            printf '%s{"requested-packages":[%s],"requested-base-removals":[%s],' "$comma" \
                "$([ ! -f $of-packages ] || names $of-packages)" "$([ ! -f $of-removals ] || names $of-removals)"
            printf '"osname":"test","checksum":"%s","serial":%s,"booted":%s,"staged":%s,"container-image-reference-digest":"%s"}' "$checksum" "$serial" \
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
        # The pull spec is no package.
        options=
        for argument; do case $argument in --install=* | --uninstall=*) options="$options $argument" ;; esac; done
        # shellcheck disable=SC2086 # an option each
        change rebase "$image" $options
        ;;
    'rpm-ostree install') shift; change layer + pending-packages "$@" ;;
    'rpm-ostree uninstall') shift; change layer - pending-packages "$@" ;;
    'rpm-ostree override')
        sign=+
        [ "$2" = remove ] || sign=-
        shift 2
        change layer $sign pending-removals "$@"
        ;;
    'rpm -q')
        shift 2
        for name; do if grep -x -F -- "$name" image-packages; then :; else echo "package $name is not installed"; fi; done
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
            *--delete*) shift $(($# - 1)) && change forget "${1##*/}" ;;
        esac
        ;;
    'ostree show')
        shift $(($# - 1))
        echo "'sha256:${1##*/}'"
        ;;
    'ostree admin')
        # `soft` is there where the host can do a soft reboot.
        restage() { stage "$(booted | cut -d' ' -f4)"; edit_kargs "$@"; }
        case $2 in
            cleanup) ;;
            undeploy) change unstage ;;
            --help) echo "  deploy"; if [ -f soft ]; then echo "  prepare-soft-reboot"; fi ;;
            deploy) change restage "$@" ;;
            *) die "$*" ;;
        esac
        ;;
    *) die "nobody plays $tool $*" ;;
esac
