#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# kernel.sh FLAVOUR [SOURCE OUT]: configure and build a kernel, and check that
# every option asked for survived.  FLAVOUR is "fast" (the one for numbers), "debug",
# "plain" (without what BAR mappings do not need), "coverage" or "arm64", which is the
# fast one of another machine; SOURCE and OUT are build/linux and build/FLAVOUR unless
# given.
#
# kernel.sh --again ID FLAVOUR: build what differs from the last time, and call it ID.
# That must be neither options nor the modules of the tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

again=
if [ "${1:-}" = --again ]; then
	again=$2
	shift 2
fi
flavour=${1:-fast}
source=${2:-$TREE}
out=${3:-$BUILD/$flavour}

gcov=()
case $flavour in
fast|debug|plain)	;;
arm64)	"$LAB/scripts/packages.sh" arm64 ;;
coverage)
	# Objects are named without their directory, and a memory.o is in arch/x86/boot, too,
	# which cannot be profiled.
	while read -r file; do
		file=${file##*/}
		gcov+=("GCOV_PROFILE_${file%.c}.o=y")
	done < <(git -C "$source" diff --name-only base HEAD -- '*.c' ':!tools' ':!samples' ':!mm/memory.c') ;;
*)	die "no kernel flavour \"$flavour\": there are fast, debug, plain, arm64 and coverage" ;;
esac
machine_of "$flavour"
mapfile -t fragments < <(kernel_fragments "$flavour" "$source")

kmake()
{
	# The samples run in the guest, too, which has no libraries.
	make -C "$source" O="$out" -j"$JOBS" "${target[@]}" CC="ccache ${cross}gcc" \
		HOSTCC="ccache gcc" USERLDFLAGS=-static "${gcov[@]}" "$@"
}

need_disk 6
mkdir -p "$out"

if [ -z "$again" ]; then
	wanted=$(config_wanted "${fragments[@]}")
	id=$(tree_id "$source")
	if is_built "$out" "$id" "$wanted"; then
		exit 0
	fi
fi
# What is built is named last, so that half a build is of no tree.
rm -f "$out/.lab-tree"
if [ -z "$again" ]; then
	configure "$flavour" "$source" "$out" "${fragments[@]}"
	configured "$flavour" "$out" "${fragments[@]}"
	rm -rf "$out/root"
fi
with_progress "building the $flavour kernel" "$BUILD/log/kernel-${out##*/}.log" kmake "${image##*/}" modules
kmake -s modules_install INSTALL_MOD_PATH="$out/root" > "$BUILD/log/modules-${out##*/}.log"
if [ -d "$source/samples/vfio-dmabuf" ]; then
	install -D -t "$out/root/usr/bin" "$out"/samples/vfio-dmabuf/vfio-dmabuf-*
fi
# The modules of the tests, where modprobe finds them
test_modules=$source/tools/testing/selftests/vfio/test_modules
if [ -z "$again" ] && [ -d "$test_modules" ]; then
	with_progress "building the test modules of the $flavour kernel" "$BUILD/log/test-modules-${out##*/}.log" \
		kmake M="$test_modules" MO="$out/test_modules" modules
	kmake -s M="$test_modules" MO="$out/test_modules" modules_install \
		INSTALL_MOD_PATH="$out/root" >> "$BUILD/log/modules-${out##*/}.log"
fi
echo "${again:-$id}" > "$out/.lab-tree"
