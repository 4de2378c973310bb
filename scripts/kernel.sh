#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# kernel.sh FLAVOUR [SOURCE OUT]: configure and build a kernel, and check that
# every option asked for survived.  FLAVOUR is "fast" (the one for numbers) or
# "debug"; SOURCE and OUT are build/linux and build/FLAVOUR unless given.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

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

# Paths below build/ are hashed relative to the output directory, so that the
# same file built from another work tree is found again.
export CCACHE_DIR=$BUILD/ccache CCACHE_BASEDIR=$BUILD CCACHE_NOHASHDIR=1
export CCACHE_MAXSIZE=5G CCACHE_SLOPPINESS=time_macros
# The same sources give the same kernel, whoever builds it and when.
export KBUILD_BUILD_TIMESTAMP="2026-01-01" KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab
kmake()
{
	make -C "$source" O="$out" -j"$JOBS" CC="ccache gcc" "$@"
}

need_disk 6
mkdir -p "$out"

wanted=$(sed -n -e '/^CONFIG_/p' -e 's/^# \(CONFIG_[A-Z0-9_]*\) is not set$/\1=n/p' "${fragments[@]}" |
	# A later fragment overrides an earlier one.
	awk -F= '{ value[$1] = $0 } END { for (name in value) print value[name] }' | sort)
if [ "$(cat "$out/.lab-config" 2> /dev/null)" != "$wanted" ] || [ ! -e "$out/.config" ]; then
	say "configuring $flavour"
	rm -f "$out/.lab-config"
	kmake allnoconfig > "$BUILD/log/config-$flavour.log"
	(
		cd "$out"
		"$source/scripts/kconfig/merge_config.sh" -m .config "${fragments[@]}"
	) >> "$BUILD/log/config-$flavour.log"
	echo "$wanted" > "$out/.lab-config.new"
fi
kmake olddefconfig > "$BUILD/log/olddefconfig-$flavour.log"

lost=
while IFS= read -r option; do
	name=${option%%=*}
	case $option in
	*=n)	if grep -q "^$name=" "$out/.config"; then lost+=" $name=n"; fi ;;
	*)	grep -qxF "$option" "$out/.config" || lost+=" $option" ;;
	esac
done <<< "$wanted"
[ -z "$lost" ] ||
	die "the $flavour kernel cannot have these options, or lacks what they depend on:$lost"
[ ! -e "$out/.lab-config.new" ] || mv "$out/.lab-config.new" "$out/.lab-config"

with_progress "building the $flavour kernel" "$BUILD/log/kernel-$flavour.log" \
	kmake ${KERNEL_WARNINGS:+W=$KERNEL_WARNINGS} bzImage modules
