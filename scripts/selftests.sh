#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build what the guest runs: the kselftests of build/linux and the lab's own
# programs, all static, into build/kselftest.  One build is good for every kernel of a
# machine: that of arm64 is in build/kselftest-arm64.
#
# usage: selftests.sh [--for FLAVOUR] [COLLECTION...]	the vfio collection, and those
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

flavour=fast
if [ "${1:-}" = --for ]; then
	flavour=$2
	shift 2
fi
machine_of "$flavour"
collections="vfio $*"
objects=$BUILD/kselftest-objects${tests#"$BUILD/kselftest"}
installed=$tests
selftests=$TREE/tools/testing/selftests
programs=(bar_mmap edu_demo fault_locks fault_scaling map_bench)
helpers=(dmabuf_demo kunit)

[ -d "$selftests" ] || die "there is no kernel tree in $TREE: run \"make tree\" first"
id=$(tree_id "$TREE")
# Nothing to do where neither the tree nor what the lab adds has changed.
stamp="$id $collections $(cat "$LAB"/scripts/guest/{*.c,dmabuf_demo,kunit} "$0" | sha256sum)"
[ "$(cat "$installed/.lab-stamp" 2> /dev/null)" != "$stamp" ] || exit 0
mkdir -p "$objects"
libraries=
if [ "$machine" = aarch64 ]; then
	"$LAB/scripts/packages.sh" arm64
	libraries="-L$("$LAB/scripts/arm64.sh")/usr/lib/aarch64-linux-gnu"
fi

# FORCE_TARGETS: without it the kernel's makefile hides a collection that does
# not build.
common=(OUTPUT="$objects/kselftest/vfio" KHDR_INCLUDES="-isystem $objects/usr/include"
	CC="${CC:-${cross}gcc}" LDFLAGS="-static $libraries" FORCE_TARGETS=1 "${target[@]}")

build()
{
	local program

	make -C "$TREE" O="$objects" "${target[@]}" headers
	make -C "$selftests" O="$objects" TARGETS="$collections" "${common[@]:1}" \
		INSTALL_PATH="$installed.new" -j"$JOBS" install
	# The makefile of the vfio tests knows how to build against libvfio, so
	# it builds the lab's programs too: only the name and the place differ.
	for program in "${programs[@]}"; do
		make -C "$selftests/vfio" "${common[@]}" VPATH="$LAB/scripts/guest" \
			TEST_GEN_PROGS="$objects/kselftest/vfio/$program" \
			"$objects/kselftest/vfio/$program"
		install -D -t "$installed.new/lab" "$objects/kselftest/vfio/$program"
		echo "lab:$program" >> "$installed.new/kselftest-list.txt"
	done
	for program in "${helpers[@]}"; do
		install -t "$installed.new/lab" "$LAB/scripts/guest/$program"
		echo "lab:$program" >> "$installed.new/kselftest-list.txt"
	done
	echo "timeout=600" > "$installed.new/lab/settings"
	echo "$id" > "$installed.new/.lab-tree"
	echo "$stamp" > "$installed.new/.lab-stamp"
}

rm -rf "$installed.new" "$installed.old"
with_progress "building the tests" "$BUILD/log/selftests.log" build
# Two renames, so that a build that failed or was stopped is never taken for a
# finished one.
[ ! -e "$installed" ] || mv "$installed" "$installed.old"
mv "$installed.new" "$installed"
rm -rf "$installed.old"
