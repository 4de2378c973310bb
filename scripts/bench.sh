#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make bench: what the paths to a device's memory cost on the stock kernel and on
# the series, side by side.  Instructions are exact and the same on every machine,
# so each has a limit.  How much a second thread brings is a matter of time, and is
# only shown: what two threads share is counted by guest/fault_locks.c.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# name, limit as a factor, of what: another number of the series, or "stock": the
# stock kernel's number of the same name. The number must not be greater. Stock has
# no number for what it cannot do. A revoke costs the same however many other
# DMABUFs there are, and four times the processes cost four times as much at most.
# What is write-combined costs the same once it is; until then its ranges have to be
# reserved, and it costs others next to nothing that a thousand of them are.
limits='
bar-map-unmap			1.45	stock
bar-map-touch-unmap		1.35	stock
bar-fault-4k			1.00	stock
bar-fault-2m			1.00	stock
bar-fault-1g			1.00	stock
export-close			1.05	stock
delegated-fault-1-range		1.00	bar-fault-4k
delegated-fault-4096-ranges	1.10	delegated-fault-1-range
row-511-touches-fault		1.00	delegated-fault-1-range
revoke-0-pages			0.20	export-close
revoke-1-page			1.00	bar-fault-4k
revoke-512-pages		32.00	revoke-1-page
revoke-2m			1.00	revoke-1-page
revoke-1g			1.00	revoke-1-page
revoke-0-pages-1-others		1.05	revoke-0-pages
revoke-0-pages-100-others	1.05	revoke-0-pages-1-others
revoke-0-pages-10000-others	1.05	revoke-0-pages-1-others
revoke-1-page-1-others		1.05	revoke-1-page
revoke-1-page-100-others	1.05	revoke-1-page-1-others
revoke-1-page-10000-others	1.05	revoke-1-page-1-others
revoke-1-page-1-processes	1.05	revoke-1-page
revoke-1-page-4-processes	4.00	revoke-1-page-1-processes
revoke-1-page-16-processes	4.00	revoke-1-page-4-processes
revoke-1-page-64-processes	4.00	revoke-1-page-16-processes
wc-fault-4k			1.02	uc-fault-4k
wc-fault-2m			1.02	uc-fault-2m
wc-fault-1g			1.02	uc-fault-1g
wc-export-close			1.60	uc-export-close
wc-export-revoke		1.75	uc-export-revoke
uc-export-close-1000-wc		1.05	uc-export-close
wc-export-close-1000-wc		1.20	wc-export-close
bar-map-unmap-1000-wc		1.12	bar-map-unmap
'

"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/kernel.sh" fast
"$LAB/scripts/stock.sh"
"$LAB/scripts/selftests.sh"

# measure KERNEL PLAN ROUND OPTION...
measure()
{
	local kernel=$1 out=$BUILD/run/$2-$1-$3 log=$BUILD/log/$2-$1-$3.log plan=$2
	shift 3

	"$LAB/scripts/boot.sh" --cpu max "$@" \
		--plan "$LAB/scripts/plans/$plan" --out "$out" "$kernel" > "$log" 2>&1 ||
		{ cat "$log"; die "the $kernel kernel did not finish its measurements"; }
	sed -n 's/^ *# bench \([a-z0-9-]* [0-9]*\)$/\1/p' "$out/ktap.log" > "$out/numbers"
	[ -s "$out/numbers" ] || die "the $kernel kernel measured nothing"
}

# One after the other, so that what else the machine does befalls both alike.
for round in 1 2; do
	for kernel in stock fast; do
		[ "$round" -gt 1 ] ||
			# The CPU of the numbers that are published, whatever it costs
			# to emulate.
			measure "$kernel" bench 1 --icount --append transparent_hugepage_shmem=never
		measure "$kernel" scaling "$round" --parallel
	done
done
echo "# what two threads get done in the time of one, in percent, in two boots each:"
for kernel in stock fast; do
	paste -d' ' "$BUILD/run/scaling-$kernel"-{1,2}/numbers |
		awk -v kernel="$kernel" '{ printf "# %-6s %-24s %4d %4d\n", kernel, $1, $2, $4 }'
done

# shellcheck disable=SC2016 # awk's own variables
LIMITS=$limits awk '
	FNR == 1 { file++ }
	file == 1 { stock[$1] = $2 }
	file == 2 { series[$1] = $2 }
	END {
		printf "# %-28s %8s %8s %7s  %s\n", "instructions", "stock", "series", "ratio", "limit"
		n = split(ENVIRON["LIMITS"], line, "\n")
		for (i = 1; i <= n; i++) {
			if (split(line[i], f, /[ \t]+/) < 3)
				continue
			base = f[3] == "stock" ? stock[f[1]] : series[f[3]]
			ok = (f[1] in series) && base > 0 && series[f[1]] <= f[2] * base
			printf "# %-28s %8s %8s %7.3f  %s x %s\n", f[1],
				((f[1] in stock) ? stock[f[1]] : "-"),
				((f[1] in series) ? series[f[1]] : "-"),
				((base > 0) ? series[f[1]] / base : 0), f[2], f[3]
			result[++m] = (ok ? "ok" : "not ok") " - " f[1] " is within " f[2] " x " f[3]
		}
		for (i = 1; i <= m; i++)
			print result[i]
	}' "$BUILD"/run/bench-{stock,fast}-1/numbers
