#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What README.md shows must work: each block of C in it builds, against libvfio
# where it includes it, or is a part of the file that it names.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

work=$BUILD/readme
objects=$BUILD/kselftest-objects
selftests=$TREE/tools/testing/selftests
rm -rf "$work"
mkdir -p "$work"
awk -v to="$work/program" '
	/^```c$/ { n++; file = to n ".c"; next }
	/^```c / { quotes++; file = to "-quote" quotes; print $2 > file; next }
	/^```$/ { file = "" }
	file { print > file }' "$LAB/README.md"

# Where there is none, nothing would be a pass.
[ -e "$work/program1.c" ] || die "README.md has no block of C"
for file in "$work"/*.c; do
	program=${file%.c}
	rc=0
	if grep -q '<libvfio\.h>' "$file"; then
		make -C "$selftests/vfio" OUTPUT="$objects/kselftest/vfio" LDFLAGS=-static CC=gcc \
			KHDR_INCLUDES="-isystem $objects/usr/include" VPATH="$work" \
			TEST_GEN_PROGS="$objects/kselftest/vfio/${program##*/}" \
			"$objects/kselftest/vfio/${program##*/}" > "$program.log" 2>&1 || rc=$?
	else
		gcc -Wall -Werror -o "$program" "$file" > "$program.log" 2>&1 || rc=$?
	fi
	if [ "$rc" -eq 0 ]; then
		echo "ok - README.md: ${program##*/} builds"
	else
		echo "not ok - README.md: ${program##*/} builds"
		grep -E 'error|warning' "$program.log" | sed 's/^/# /'
	fi
done

for quote in "$work"/program-quote*; do
	[ -e "$quote" ] || continue
	source=$(head -n 1 "$quote")
	if [[ $(cat "$LAB/$source") == *"$(tail -n +2 "$quote")"* ]]; then
		echo "ok - README.md quotes $source"
	else
		echo "not ok - README.md quotes $source"
		diff "$LAB/$source" <(tail -n +2 "$quote") | sed -n 's/^>/#/p' || true
	fi
done
