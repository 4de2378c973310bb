#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make coverage: which lines of the kernel that the series changes do the tests
# reach?  A table with one line a file and the lines that none of them reaches; red
# where less is reached than scripts/expected/coverage says, in percent.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$LAB/scripts/packages.sh"
"$LAB/scripts/packages.sh" coverage
"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/kernel.sh" coverage
"$LAB/scripts/selftests.sh"
kernel=$BUILD/coverage
out=$BUILD/run/coverage
log=$BUILD/log/coverage.log

"$LAB/scripts/boot.sh" --icount --expected none --out "$out" coverage > "$log" 2>&1 ||
	{ tail -n 30 "$log"; die "what the tests reach says nothing while they fail: see $log"; }
[ -s "$out/gcov.cpio.gz" ] || die "the guest has sent no coverage"

# As of this boot alone.
find "$kernel" -name '*.gcda' -delete
rm -rf "$out/gcov"
mkdir -p "$out/gcov"
(cd "$out/gcov" && gzip -dc ../gcov.cpio.gz | cpio -idm --quiet --no-absolute-filenames)
cp -r "$out/gcov$kernel/." "$kernel"

(
	cd "$TREE"
	gcovr --root . --exclude-unreachable-branches --xml "$out/coverage.xml" "$kernel" > "$log" 2>&1 ||
		{ tail -n 20 "$log"; die "gcovr failed: see $log"; }
	# The tree is the series, committed; diff-cover asks git for its lines.
	diff-cover "$out/coverage.xml" --compare-branch=base --diff-range-notation=.. \
		--fail-under="$(sed -n '/^[0-9]/p' "$LAB/scripts/expected/coverage")"
)
