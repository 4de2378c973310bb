#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Make the logs that verdict_test.py judges again, with the real guest: needed
# only where what the guest writes has changed.
#
# usage: record.sh [CASE...]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

here=$LAB/scripts/tests
cases='
good	fast	edu edu_demo;edu vfio:vfio_pci_device_test;igb vfio:vfio_pci_device_test
good-debug	debug	edu edu_demo
kasan	debug	- misbehave kasan
warn	debug	- misbehave warn
panic	debug	- misbehave panic
lockdep	debug	- misbehave lockdep
hang	fast	- misbehave hang
timeout	fast	- misbehave hang
taint	fast	- misbehave taint
unbind	fast	edu misbehave unbind
remove	fast	edu misbehave remove
hidden	fast	- misbehave hidden
skip	fast	- misbehave skip
exit4	fast	- misbehave exit4
silent	fast	- misbehave silent
short	fast	- misbehave short
'

# The banner, what the verdict asks for, what is about a problem, and the end; not
# who built the kernel.
trim_console()
{
	awk '{ line[NR] = $0 }
		/BUG|WARNING|KASAN|panic -|Call Trace|lock held|lock debugging|cut here|end trace/ { for (i = NR - 1; i <= NR + 1; i++) keep[i] = 1 }
		END { for (i = 1; i <= NR; i++)
			if (line[i] ~ /Linux version|x2apic enabled/ || i > NR - 3 || (keep[i] && i > NR / 2))
				print line[i] }' "$1" |
		sed 's/\(Linux version [^ ]*\) .*/\1/'
}

while IFS=$'\t' read -r name flavour lines; do
	[ -n "$name" ] || continue
	[ $# -eq 0 ] || [[ " $* " = *" $name "* ]] || continue
	raw=$BUILD/run/record/$name
	mkdir -p "$raw" "$here/logs/$name"
	tr ';' '\n' <<< "$lines" > "$raw/record"
	options=(--icount)
	case $name in
	# Guest time runs ahead of the host's with icount: a hang is never idle.
	hang)	options=(--timeout 30) ;;
	timeout) options+=(--test-timeout 3) ;;
	esac
	"$LAB/scripts/boot.sh" --plan "$raw/record" --out "$raw" --add "$here/misbehave" \
		"${options[@]}" "$flavour" || true
	cp "$raw"/{plan,devices,run.json,ktap.log} "$here/logs/$name"
	trim_console "$raw/console.log" > "$here/logs/$name/console.log"
done <<< "$cases"
