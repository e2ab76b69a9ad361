# The Debian archives that images and tools are made from. Sourced, never run.
# shellcheck shell=bash

# debian_sources: apt's one-line entries. Their addresses are those this machine uses, so a mirror of the site is used
# for what is made here too.
debian_sources() {
    local list
    list=$(known_sources)
    if [ -z "$list" ]; then
        # apt tells its sources only after an update.
        mkdir -p "$TARGET/demo"
        run_logged "$TARGET/demo/apt.log" "apt-get update" apt-get update
        list=$(known_sources)
    fi
    grep -q ' bookworm main$' <<<"$list" ||
        die "apt on this machine has no http source for \`bookworm main\`; add one to /etc/apt/sources.list.d"
    printf '%s\n' "$list"
}

known_sources() {
    local uri suite component
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' |
        awk '$2 ~ /^bookworm(-updates|-security)?$/ && $3 == "main"' |
        while read -r uri suite component; do
            # Debian's cloud images name their mirrors in files, which the image would not have.
            case $uri in
                mirror+file:/*)
                    uri=${uri#mirror+file:}
                    uri=$(awk '$1 ~ /^https?:/ { print $1; exit }' "${uri%/}")
                    ;;
            esac
            case $uri in http*) printf 'deb %s %s %s\n' "$uri" "$suite" "$component" ;; esac
        done | sort -u
}
