#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# mutants.sh [NAME|FILE...]: are the tests worth something?  Break the series in
# one place, build and boot that, and pass only where the tests say so; once for
# each of scripts/mutants/*.patch.  Before its diff a mutant says
#
#	Breaks: the promise, in a line
#	Plan: a line for boot.sh's plan, with what is to notice; may be repeated
#	Killed-by: the test case that must fail, or "panic"; may be repeated
#
# "panic" is the word for a kernel that must die in a test of the plan.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

mutants=$LAB/scripts/mutants
src=$BUILD/walk/linux
out=$BUILD/walk/fast
runs=$BUILD/run/mutants
# What boots.  While it does, the next one can be built in $out.
kernel=walk/mutant

declare -A file
names=()
# The values of field $2 of mutant $1
field()
{
	sed -n -e "s/^$2: *//p" -e '/^diff /q' "${file[$1]}"
}

[ $# -gt 0 ] || set -- "$mutants"/*.patch
for mutant in "$@"; do
	[ -f "$mutant" ] || mutant=$mutants/$mutant.patch
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

failed=0
# not_ok WHAT: with its reasons on stdin
not_ok()
{
	echo "not ok - $1"
	sed 's/^/# /'
	failed=1
}

# Have the kernel of one mutant, or of "control", in $out.
build()
{
	local name=$1 why

	"$LAB/scripts/walk.sh" "$head"
	if [ "$name" != control ] && ! why=$(kgit apply "${file[$name]}" 2>&1); then
		not_ok "applies: $name" <<< "$why"
		return 1
	fi
	if ! KERNEL_WARNINGS='' "$LAB/scripts/kernel.sh" fast "$src" "$out" > /dev/null; then
		not_ok "builds: $name" <<< "see $BUILD/log/kernel-fast.log"
		return 1
	fi
}

boot='' booted=''
# Boot what was built last, with the plan of mutants $2...; finish() waits for it.
start()
{
	local name=$1 dir=$runs/$1 mutant
	shift

	mkdir -p "$dir" "$BUILD/$kernel/arch/x86/boot"
	cp "$out/arch/x86/boot/bzImage" "$BUILD/$kernel/arch/x86/boot"
	rm -f "$dir/summary.json"
	for mutant in "$@"; do
		field "$mutant" Plan
	done | awk '!seen[$0]++' > "$dir/$name"
	# Seconds of this machine, and of the guest, whose clock does not wait where
	# it is idle.  Most need a fraction, but a mutant may well hang.
	"$LAB/scripts/boot.sh" --icount --timeout 300 --test-timeout 600 \
		--plan "$dir/$name" --out "$dir" "$kernel" > "$dir/boot.log" 2>&1 &
	boot=$! booted=$name
}

# judge RUN ok|killed MUTANT: print what speaks against it.
judge()
{
	local dir=$runs/$1

	if [ ! -s "$dir/summary.json" ]; then
		echo "the boot did not come to a verdict:"
		tail -n 5 "$dir/boot.log"
		return
	fi
	PLAN=$(field "$3" Plan) KILLERS=$(field "$3" Killed-by) python3 - "$dir" "$2" << 'END'
import json, os, re, sys
from pathlib import Path

run, wanted = Path(sys.argv[1]), sys.argv[2]
summary = json.loads((run / 'summary.json').read_text())
failures = {f'{row["device"]} {row["name"]}'.removeprefix('- '): row['failures']
            for row in summary['tests']}
whole = failures['run as a whole']
killers = os.environ['KILLERS'].split('\n')
plan = []
for line in os.environ['PLAN'].split('\n'):
    device, test, *args = line.split()
    plan.append(' '.join([device, test.split(':', 1)[-1], *args]).removeprefix('- '))

# What the log says about the test cases of each line of the plan
results, row = {}, ''
for line in (run / 'ktap.log').read_text(errors='replace').splitlines():
    if line.startswith('# lab: start='):
        row = line.removeprefix('# lab: start=')
    elif match := re.fullmatch(r' +((?:not )?ok) \d+ (\S+)( # SKIP.*)?', line):
        results[row, match[2]] = 'skipped' if match[3] else match[1]


def check_cases(want):
    for case in killers:
        found = {results.get((row, case), 'not in the log') for row in plan}
        if want not in found:
            yield f'{case}: is {" and ".join(sorted(found))}'


def check_panic():
    if not any(why.startswith('kernel panic') for why in whole):
        yield 'the kernel did not die'
    elif not any('did not finish' in failures.get(row, ()) for row in plan):
        yield 'the kernel died, but not in a test of the plan'


problems = []
if wanted == 'ok':
    # The whole has been found green.  Here it is to be worth something.
    problems += check_cases('ok') if killers != ['panic'] else []
elif killers == ['panic']:
    problems += check_panic()
else:
    problems += check_cases('not ok')
    problems += whole
    # Another reason than a test case that failed
    for row in plan:
        problems += [f'{row}: {why}' for why in failures.get(row, ['not in the verdict'])
                     if (row, why.split(': ')[0]) not in results]
print(*problems, sep='\n', end='\n' if problems else '')
END
}

# Wait for the boot, and say what came out.
finish()
{
	local name=$booted green=1 why mutant

	[ -n "$boot" ] || return 0
	wait "$boot" || green=0
	boot=''
	if [ "$name" = control ]; then
		if [ "$green" = 1 ]; then
			why=$(for mutant in "${names[@]}"; do
				judge control ok "$mutant" || exit 1
			done)
		else
			why=$(tail -n 25 "$runs/control/boot.log")
		fi
		if [ -n "$why" ]; then
			not_ok "control: without a mutant all of the tests pass" <<< "$why"
			# All that follows would mean nothing.
			exit 1
		fi
		echo "ok - control: without a mutant all of the tests pass"
	elif [ "$green" = 1 ]; then
		not_ok "survived: $name" <<< "breaks: $(field "$name" Breaks)"
	else
		why=$(judge "$name" killed "$name")
		if [ -n "$why" ]; then
			not_ok "survived: $name, and what is red is something else" <<< "$why"
		else
			echo "ok - killed: $name (by $(field "$name" Killed-by | paste -sd' '))"
		fi
	fi
}

cleanup()
{
	trap '' INT TERM HUP
	if [ -n "$boot" ]; then
		kill "$boot" 2> /dev/null || true
		wait "$boot" || true
	fi
	# The tree is the series again, and newer than the objects of a mutant.
	"$LAB/scripts/walk.sh" "$head"
}

"$LAB/scripts/tree.sh" --keep
head=$(kgit rev-parse series)
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
"$LAB/scripts/walk.sh" "$head"
LAB_TREE=$src "$LAB/scripts/selftests.sh" walk/fast
mkdir -p "$BUILD/$kernel"
ln -sfn ../fast/{.config,kselftest,usr} "$BUILD/$kernel"
# The mutants are for that tree.
TREE=$src

for name in control "${names[@]}"; do
	built=1
	build "$name" || built=0
	finish
	if [ "$built" = 1 ] && [ "$name" = control ]; then
		start control "${names[@]}"
	elif [ "$built" = 1 ]; then
		start "$name" "$name"
	elif [ "$name" = control ]; then
		exit 1
	fi
done
finish
if [ "$failed" = 1 ]; then
	exit 1
fi
