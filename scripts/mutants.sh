#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# mutants.sh [--all|NAME|FILE...]: are the tests worth something?  Break the series
# in one place, build and boot that, and pass only where the tests say so; once for
# each of scripts/mutants/*.patch, and with --all also of those in more/, for which
# make check has no time.  Before its diff a mutant says
#
#	Breaks: the promise, in a line
#	Kernel: the flavour that is to notice; "fast" where it does not say
#	Plan: a line for boot.sh's plan, with what is to notice; may be repeated
#	Killed-by: the test case that must fail; "panic", for a kernel that must die
#		in a test of the plan; or "splat REGEX", for what the console must be
#		red about; may be repeated
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

mutants=$LAB/scripts/mutants
work=$BUILD/mutants
runs=$BUILD/run/mutants
log=$BUILD/log/mutants

declare -A file
names=()
# The values of field $2 of mutant $1
field()
{
	sed -n -e "s/^$2: *//p" -e '/^diff /q' "${file[$1]}"
}

# The kernel of mutant $1
flavour()
{
	local flavour

	flavour=$(field "$1" Kernel)
	echo "${flavour:-fast}"
}

case ${1:-} in
'')	set -- "$mutants"/*.patch ;;
--all)	set -- "$mutants"/*.patch "$mutants"/more/*.patch ;;
esac
for mutant in "$@"; do
	for dir in "$mutants" "$mutants/more"; do
		[ -f "$mutant" ] || [ ! -f "$dir/$mutant.patch" ] || mutant=$dir/$mutant.patch
	done
	[ -f "$mutant" ] || die "there is no mutant ${mutant##*/}: see scripts/mutants"
	name=$(basename "$mutant" .patch)
	# git looks for it from within the tree.
	file[$name]=$(realpath "$mutant")
	names+=("$name")
	for field in Breaks Plan Killed-by; do
		[ -n "$(field "$name" "$field")" ] ||
			die "the mutant $name has no \"$field:\" before its diff"
	done
done
mapfile -t flavours < <(for name in "${names[@]}"; do flavour "$name"; done | sort -ru)

# What is broken is a copy, which this process sees in the place of build/linux and
# of what was built of it: at the same paths nothing has to be built twice.
if [ -z "${LAB_MUTANTS:-}" ]; then
	"$LAB/scripts/tree.sh" --keep
	for flavour in "${flavours[@]}"; do
		"$LAB/scripts/kernel.sh" "$flavour"
	done
	"$LAB/scripts/selftests.sh"
	need_disk 6
	rm -rf "$work"
	mkdir -p "$work/upper"
	say "copying what is to be broken"
	# git replaces what it changes, so hard links are copies enough.
	cp -al "$TREE" "$work/linux"
	for flavour in "${flavours[@]}"; do
		cp -a --reflink=auto "$BUILD/$flavour" "$work/$flavour"
	done
	user=()
	[ "$(id -u)" -eq 0 ] || user=(--user --map-root-user)
	LAB_MUTANTS=1 exec unshare "${user[@]}" --mount "$0" "${file[@]}"
fi
for directory in linux "${flavours[@]}"; do
	mount --bind "$work/$directory" "$BUILD/$directory"
done
mkdir -p "$log"
# Of the tree as it is.  While a guest starts, the next mutant may be in it.
id=$(tree_id "$TREE")

failed=0
# not_ok WHAT: with its reasons on stdin
not_ok()
{
	echo "not ok - $1"
	sed 's/^/# /'
	failed=1
}

# Build mutant $2, or "control", of flavour $1, and have it in $work/boot-$2.
build()
{
	local flavour=$1 name=$2 boot=$work/boot-$2 rc=0

	if [[ $name == control-* ]]; then
		copy_bootable "$BUILD/$flavour" "$boot"
		return
	fi
	if ! kgit apply "${file[$name]}" > "$log/$name.log" 2>&1; then
		not_ok "applies: $name" < "$log/$name.log"
		return 1
	fi
	"$LAB/scripts/kernel.sh" --again "$name" "$flavour" > "$log/$name.log" 2>&1 || rc=$?
	kgit apply -R "${file[$name]}"
	if [ "$rc" -ne 0 ]; then
		not_ok "builds: $name" < <(tail -n 12 "$log/$name.log")
		return 1
	fi
	copy_bootable "$BUILD/$flavour" "$boot"
}

# pid and flavour of what boots, by name, in the order of the start
declare -A pid
booting=()

# Boot what was built for $1 with the plan of mutants $2...
start()
{
	local name=$1 dir=$runs/$1 mutant time=()
	shift

	mkdir -p "$dir"
	rm -f "$dir/summary.json"
	for mutant in "$@"; do
		field "$mutant" Plan
	done | awk '!seen[$0]++' > "$dir/plan-of-$name"
	# One CPU, and time that does not wait, where the kernel need not race.
	[ "$(flavour "$1")" = debug ] || time=(--icount)
	# Seconds of this machine, and of the guest.  Most need a fraction, but a mutant
	# may well hang.
	"$LAB/scripts/boot.sh" "${time[@]}" --timeout 600 --test-timeout 900 \
		--kernel-id "$(cat "$work/boot-$name/.lab-tree")" --tests-id "$id" --expected none \
		--plan "$dir/plan-of-$name" --out "$dir" "mutants/boot-$name" > "$dir/boot.log" 2>&1 &
	pid[$name]=$!
	booting+=("$name")
}

# judge RUN ok|killed MUTANT: print what speaks against it.
judge()
{
	local dir=$runs/$1 plan killers

	mapfile -t plan < <(field "$3" Plan)
	mapfile -t killers < <(field "$3" Killed-by)
	if [ ! -s "$dir/summary.json" ]; then
		echo "the boot did not come to a verdict:"
		tail -n 5 "$dir/boot.log"
		return
	fi
	"$LAB/scripts/mutant_verdict.py" "$dir" "$2" --plan "${plan[@]}" --killed-by "${killers[@]}" ||
		echo "mutant_verdict.py could not judge it"
}

# Wait until at most $1 guests run, and say what came out of the others.
finish()
{
	local name green why mutant

	while [ "${#booting[@]}" -gt "$1" ]; do
		name=${booting[0]}
		booting=("${booting[@]:1}")
		green=1
		wait "${pid[$name]}" || green=0
		rm -rf "$work/boot-$name"
		if [[ $name == control-* ]]; then
			why=
			if [ "$green" = 0 ]; then
				why=$(tail -n 25 "$runs/$name/boot.log")
			else
				for mutant in "${names[@]}"; do
					[ "$(flavour "$mutant")" != "${name#control-}" ] ||
						why+=$(judge "$name" ok "$mutant")
				done
			fi
			if [ -n "$why" ]; then
				not_ok "$name: without a mutant all of the tests pass" <<< "$why"
				# All that follows would mean nothing.
				exit 1
			fi
			echo "ok - $name: without a mutant all of the tests pass"
			continue
		fi
		if [ "$green" = 1 ]; then
			not_ok "survived: $name" <<< "breaks: $(field "$name" Breaks)"
			continue
		fi
		why=$(judge "$name" killed "$name")
		if [ -n "$why" ]; then
			not_ok "survived: $name, and what is red is something else" <<< "$why"
		else
			echo "ok - killed: $name (by $(field "$name" Killed-by | paste -sd' '))"
		fi
	done
}

cleanup()
{
	trap '' INT TERM HUP
	local name
	for name in "${booting[@]}"; do
		kill "${pid[$name]}" 2> /dev/null || true
	done
	wait
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

for flavour in "${flavours[@]}"; do
	mapfile -t those < <(for name in "${names[@]}"; do
		[ "$(flavour "$name")" != "$flavour" ] || echo "$name"
	done)
	for name in "control-$flavour" "${those[@]}"; do
		# One builds while two run.
		build "$flavour" "$name" || continue
		finish 1
		if [[ $name == control-* ]]; then
			start "$name" "${those[@]}"
		else
			start "$name" "$name"
		fi
	done
done
finish 0
[ "$failed" -eq 0 ]
