#!/bin/sh
# Checks this machine and measures its GPU; the results go into results/ beside this file.
# Options are those of `mcckit help run`. Exit codes: 0 all passed, 1 something failed, 3 nothing failed but steps
# were skipped, 2 this is not a machine that the kit runs on.
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "the kit needs x86-64 Linux, this is $(uname -sm)" >&2; exit 2; }
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //')
case "$libc" in
    2.3[6-9]* | 2.[4-9][0-9]* | [3-9].*) ;;
    *) echo "the kit needs glibc 2.36 or newer, found ${libc:-another C library}" >&2; exit 2 ;;
esac
exec "$(dirname "$0")/mcckit" run "$@"
