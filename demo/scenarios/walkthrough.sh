# The demo itself, to its last line.
# shellcheck shell=bash
exec "$(dirname "${BASH_SOURCE[0]}")/../demo.sh"
