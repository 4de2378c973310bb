#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make check: every check of the project, from cheap to dear.  The last line is
# "N passed, N failed, N skipped"; the exit code says whether all is well.
#
# check.sh NAME... runs only the checks so named; "check.sh --list" names them.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Name and command, in the order in which they run.  A check tells its results
# either as TAP lines, or as a verdict's last line, or as its exit code alone.
checks="
shellcheck	scripts/check-shell.sh
spdx		scripts/check-spdx.sh
codespell	codespell -L iput --skip=./build,./.git,./COPYING,./series,./scripts/tests/logs
series		bats --tap scripts/tests/series.bats
tree		scripts/tree.sh
verdict		python3 scripts/tests/verdict_test.py
mails		scripts/check-mails.sh
kernel-fast	scripts/kernel.sh fast
tests-fast	scripts/selftests.sh fast
boot-fast	scripts/boot.sh --icount fast
bench		scripts/bench.sh
commits		scripts/check-commits.sh
mutants		scripts/mutants.sh
configs		scripts/check-configs.sh
kunit-i386	scripts/kunit-i386.sh
kernel-debug	scripts/kernel.sh debug
tests-debug	scripts/selftests.sh debug
boot-debug	scripts/boot.sh --allow-test-taint --timeout 2400 debug
known-bad	scripts/tests/known_bad_boot.sh
"

if [ "${1:-}" = --list ]; then
	awk 'NF { print $1 }' <<< "$checks"
	exit
fi
for name in "$@"; do
	grep -q "^$name	" <<< "$checks" || die "there is no check \"$name\": see --list"
done

"$LAB/scripts/packages.sh"
cd "$LAB"
passed=0 failed=0 skipped=0 broken=()
mkdir -p build/log/check

while IFS=$'\t' read -r name command; do
	[ -n "$name" ] || continue
	[ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
	log=build/log/check/$name.log
	start=$SECONDS rc=0
	printf '\n=== %s\n' "$name"
	# shellcheck disable=SC2086 # the table's commands are lists of words
	$command < /dev/null 2>&1 | tee "$log" || rc=$?

	p=$(grep -cE '^ok\b' "$log" || true)
	f=$(grep -cE '^not ok\b' "$log" || true)
	s=$(grep -cE '^ok\b.*# SKIP\b' "$log" || true)
	p=$((p - s))
	if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[3]}
	elif [ $((p + f + s)) -eq 0 ] && [ "$rc" -eq 0 ]; then
		p=1
	fi
	# A check that fails must not go uncounted, whatever it printed.
	if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
		f=1
	fi
	[ "$f" -eq 0 ] || broken+=("$name ($log)")
	printf '=== %s: %d passed, %d failed, %d skipped, %d s\n' \
		"$name" "$p" "$f" "$s" $((SECONDS - start))
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	case $name in
	# Nothing after these can tell anything without them.
	tree|kernel-*|tests-*)	[ "$f" -eq 0 ] || break ;;
	esac
done <<< "$checks"

echo
for name in "${broken[@]}"; do
	echo "failed: $name"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
