#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make demo: from nothing to the kselftests on a booted kernel.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$LAB/scripts/packages.sh"
"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/kernel.sh" fast
"$LAB/scripts/selftests.sh"
# Without KVM, virtual time that skips what the guest sleeps through is faster.
time=()
[ "$("$LAB/scripts/accel.sh" 2> /dev/null)" = kvm ] || time=(--icount)

mkdir -p "$BUILD/log"
"$LAB/scripts/boot.sh" "${time[@]}" --plan "$LAB/scripts/plans/demo" --out "$BUILD/run/demo" fast \
	> "$BUILD/log/demo.log" || { cat "$BUILD/log/demo.log"; exit 1; }

# What test $1 has to tell
story()
{
	awk -v first="  # Subtest: $1" '/^  # Subtest: / { on = $0 == first; next }
		/^[^ ]/ { on = 0 }
		on && /^  (# |(not )?ok )/ { print "  " $0 }' "$BUILD/run/demo/ktap.log"
}

printf '\nEDU, driven from userspace through vfio:\n\n'
story 'edu edu_demo'
printf '\nOne page of it, in the hands of an unprivileged process, and taken back:\n\n'
story 'edu dmabuf_demo'
printf '\nThe kernel'\''s own vfio kselftests, on that device and on one whose BAR is memory:\n\n'
"$LAB/scripts/boot.sh" "${time[@]}" --plan "$LAB/scripts/plans/quick" \
	--expected "$LAB/scripts/expected/fast" fast
