#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make check: every check of the project.  The last line is "N passed, N failed, N
# skipped"; the exit code says whether all is well.
#
# check.sh NAME... runs only the checks so named and what they need; "check.sh
# --list" names them.  CHECK_JOBS says how many run side by side.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Name, how it tells its results, what it needs, and the command.
#
# It tells them as TAP lines (tap), by a verdict's last line (verdict), or by its
# exit code alone (exit).  Of what it needs, a check behind "~" has only to be over,
# as both use the same work tree, or two guests at a time.  What is long comes first
# where it has the choice.
checks="
shellcheck	tap	-			scripts/check-shell.sh
spdx		tap	-			scripts/check-spdx.sh
codespell	exit	-			codespell -L iput --skip=./build,./.git,./COPYING,./series,./scripts/tests/logs
bats		tap	-			bats --tap scripts/tests
tree		exit	-			scripts/tree.sh
verdict		exit	tree			python3 scripts/tests/verdict_test.py
kernel-fast	exit	tree			scripts/kernel.sh fast
tests		exit	tree			scripts/selftests.sh
docs		tap	tests			scripts/check-docs.sh
kernel-debug	exit	kernel-fast		scripts/kernel.sh debug
boot-fast	verdict	kernel-fast,tests	scripts/boot.sh --icount fast
mails		tap	tree			scripts/check-mails.sh
kernel-stock	exit	kernel-fast		scripts/stock.sh
boot-stock	verdict	kernel-stock,tests	scripts/boot.sh --icount stock
kernel-arm64	exit	kernel-fast		scripts/kernel.sh arm64
tests-arm64	exit	tests			scripts/selftests.sh --for arm64
boot-arm64	verdict	kernel-arm64,tests-arm64	scripts/boot.sh --icount arm64
boot-unaligned	verdict	kernel-arm64,tests-arm64	scripts/boot.sh --parallel --plan scripts/plans/unaligned --expected scripts/expected/unaligned arm64
boot-igb	verdict	kernel-fast,tests	scripts/boot.sh --plan scripts/plans/igb --expected scripts/expected/igb fast
boot-nopat	verdict	kernel-fast,tests	scripts/boot.sh --icount --append nopat --plan scripts/plans/nopat --expected scripts/expected/nopat fast
boot-races	verdict	kernel-debug,tests	scripts/boot.sh --parallel --env VFIO_SELFTESTS_RACE_ROUNDS=12 --plan scripts/plans/races --expected scripts/expected/races debug
boot-debug-1	verdict	kernel-debug,tests	scripts/boot.sh --shard 1/2 debug
boot-debug-2	verdict	kernel-debug,tests	scripts/boot.sh --shard 2/2 debug
commits		tap	kernel-stock		scripts/check-commits.sh
bench		tap	kernel-stock,tests	scripts/bench.sh
contributing	tap	kernel-fast,tests	scripts/check-contributing.sh
mutants		tap	~commits,~contributing,kernel-fast,tests	scripts/mutants.sh
known-bad	exit	kernel-debug,tests	scripts/tests/known_bad_boot.sh
"
log=$BUILD/log/check

# Field $2 of check $1; the command is all from the fourth on.
field()
{
	awk -v name="$1" -v n="$2" '$1 == name {
		if (n < 4) { print $n; exit }
		for (i = 1; i < n; i++)
			sub(/^[^\t]+\t+/, "")
		print; exit }' <<< "$checks"
}

# What check $1 needs, and with $2 also what it must come after
needs()
{
	field "$1" 3 | tr , '\n' | sed -e '/^-$/d' -e "${2:-/^~/d}"
}

# Run one check, and leave "PASSED FAILED SKIPPED SECONDS" in its file.
one()
{
	local name=$1 kind command start=$SECONDS rc=0 need p f s

	# make -k would not run what only comes after a check that failed.
	while read -r need; do
		if ! read -r _ f _ < "$log/$need.result" || [ "$f" -ne 0 ]; then
			return
		fi
	done 2> /dev/null < <(needs "$name")

	kind=$(field "$name" 2)
	read -ra command <<< "$(field "$name" 4)"
	echo "$name" > "$log/$name.running"
	"${command[@]}" < /dev/null > "$log/$name.log" 2>&1 || rc=$?

	p=$(grep -cE '^ok\b' "$log/$name.log" || true)
	f=$(grep -cE '^not ok\b' "$log/$name.log" || true)
	s=$(grep -cE '^ok\b.*# SKIP\b' "$log/$name.log" || true)
	p=$((p - s))
	case $kind in
	exit)	p=1 f=0 s=0 ;;
	verdict)
		p=0 f=0 s=0
		if [[ $(tail -n 1 "$log/$name.log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
			p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[3]}
		fi ;;
	esac
	# A check that fails must not go uncounted, whatever it printed, and one that
	# looked at nothing has not passed anything.
	if [ "$f" -eq 0 ] && { [ "$rc" -ne 0 ] || [ $((p + s)) -eq 0 ]; }; then
		[ "$rc" -ne 0 ] || echo "This check looked at nothing." >> "$log/$name.log"
		f=1
		[ "$kind" != exit ] || p=0
	fi
	echo "$p $f $s $((SECONDS - start))" > "$log/$name.result"
	rm "$log/$name.running"
	(
		flock 9
		printf '\n=== %s\n' "$name"
		cat "$log/$name.log"
		printf '=== %s: %d passed, %d failed, %d skipped, %d s\n' \
			"$name" "$p" "$f" "$s" $((SECONDS - start))
	) 9> "$log/lock"
}

case ${1:-} in
--list)
	awk 'NF { print $1 }' <<< "$checks"
	exit ;;
--one)
	cd "$LAB"
	one "$2"
	exit ;;
esac
names=("$@")
for name in "$@"; do
	[ -n "$(field "$name" 1)" ] || die "there is no check \"$name\": see --list"
done
if [ $# -eq 0 ]; then
	mapfile -t names < <(awk 'NF { print $1 }' <<< "$checks")
else
	for ((i = 0; i < ${#names[@]}; i++)); do
		while read -r name; do
			[[ " ${names[*]} " == *" $name "* ]] || names+=("$name")
		done < <(needs "${names[i]}")
	done
fi

"$LAB/scripts/packages.sh"
mkdir -p "$log"
rm -f "$log"/*
# Guests wait for their devices, and many run on one CPU; a guest takes 6 GiB.
memory=$(awk '$1 == "MemAvailable:" { print int($2 / 1024 / 1024) }' /proc/meminfo)
jobs=$((memory < 9 ? 1 : memory < 15 ? 2 : 3))
{
	echo ".PHONY: ${names[*]}"
	echo "all: ${names[*]}"
	for name in "${names[@]}"; do
		after=
		while read -r need; do
			[[ " ${names[*]} " != *" $need "* ]] || after+=" $need"
		done < <(needs "$name" 's/^~//')
		printf '%s:%s\n\t@+%s --one %s\n' "$name" "$after" "$LAB/scripts/check.sh" "$name"
	done
} > "$log/make"

started=$SECONDS rc=0
env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS \
	make -k -j"${CHECK_JOBS:-$jobs}" --no-print-directory -f "$log/make" all 2> "$log/make.log" &
pid=$!
shown=$SECONDS
while kill -0 "$pid" 2> /dev/null; do
	sleep 1
	if [ $((SECONDS - shown)) -ge 60 ]; then
		shown=$SECONDS
		(
			flock 9
			for file in "$log"/*.running; do
				[ -e "$file" ] || continue
				name=$(basename "$file" .running)
				printf '    %4d s, %s: %.90s\n' $((SECONDS - started)) "$name" \
					"$(tail -n 1 "$log/$name.log" 2> /dev/null)"
			done
		) 9> "$log/lock"
	fi
done
wait "$pid" || rc=$?

passed=0 failed=0 skipped=0
printf '\n%-14s %8s %8s %8s %8s\n' check passed failed skipped seconds
for name in "${names[@]}"; do
	if ! read -r p f s seconds 2> /dev/null < "$log/$name.result"; then
		# What it needs has failed.
		p=0 f=1 s=0 seconds=-
	fi
	printf '%-14s %8s %8s %8s %8s%s\n' "$name" "$p" "$f" "$s" "$seconds" \
		"$([ "$f" -eq 0 ] || echo "   FAILED, see ${log#"$LAB"/}/$name.log")"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
if [ "$rc" -ne 0 ] && [ "$failed" -eq 0 ]; then
	cat "$log/make.log"
	failed=1
fi
echo
echo "In $(((SECONDS - started + 59) / 60)) minutes:"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
