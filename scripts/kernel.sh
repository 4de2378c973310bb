#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# kernel.sh FLAVOUR [SOURCE OUT]: configure and build a kernel, and check that
# every option asked for survived.  FLAVOUR is "fast" (the one for numbers) or
# "debug"; SOURCE and OUT are build/linux and build/FLAVOUR unless given.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

flavour=${1:-fast}
source=${2:-$TREE}
out=${3:-$BUILD/$flavour}

# The options a user of the vfio kselftests needs are those of the series, also
# for the commits before it brings them.
fragments=("$LAB/scripts/config/fast.config"
	"$LAB"/tools/testing/selftests/vfio/config{,.x86_64})
case $flavour in
fast)	;;
debug)	fragments+=("$LAB/scripts/config/debug.config") ;;
*)	die "no kernel flavour \"$flavour\": there are fast and debug" ;;
esac

kmake()
{
	make -C "$source" O="$out" -j"$JOBS" CC="ccache gcc" HOSTCC="ccache gcc" "$@"
}

need_disk 6
mkdir -p "$out"

configure "$flavour" "$source" "$out" "${fragments[@]}"
configured "$flavour" "$out" "${fragments[@]}"
with_progress "building the $flavour kernel" "$BUILD/log/kernel-$flavour.log" \
	kmake ${KERNEL_WARNINGS:+W=$KERNEL_WARNINGS} bzImage modules
