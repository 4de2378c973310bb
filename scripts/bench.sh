#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make bench: what the paths to a device's memory cost, in instructions, on the
# stock kernel and on the series, side by side. The numbers are exact and the
# same on every machine, so each has a limit.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# name, limit as a factor, of what: the stock kernel's number of the same name,
# or another number of the series
limits='
bar-map-unmap			1.40	stock
bar-map-touch-unmap		1.30	stock
bar-fault-4k			1.00	stock
bar-fault-2m			1.00	stock
bar-fault-1g			1.00	stock
export-close			1.05	stock
delegated-fault-1-range		1.00	bar-fault-4k
delegated-fault-4096-ranges	1.10	delegated-fault-1-range
row-511-touches-fault		1.00	delegated-fault-1-range
'

"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/walk.sh" base
# Beside its source as build/fast is, so that ccache knows the files.
stock=walk/stock
"$LAB/scripts/kernel.sh" fast "$BUILD/walk/linux" "$BUILD/$stock"
"$LAB/scripts/kernel.sh" fast
"$LAB/scripts/selftests.sh" fast
ln -sfn ../../fast/kselftest "$BUILD/$stock/kselftest"

for kernel in "$stock" fast; do
	name=${kernel##*/}
	# The CPU of the numbers that are published, whatever it costs to emulate.
	"$LAB/scripts/boot.sh" --icount --cpu max --append transparent_hugepage_shmem=never \
		--plan "$LAB/scripts/plans/bench" --out "$BUILD/run/bench-$name" "$kernel" \
		> "$BUILD/log/bench-$name.log" ||
		{ cat "$BUILD/log/bench-$name.log"; die "the $name kernel did not finish its measurements"; }
	sed -n 's/^ *# bench \([a-z0-9-]* [0-9]*\)$/\1/p' "$BUILD/run/bench-$name/ktap.log" \
		> "$BUILD/run/bench-$name/numbers"
	[ -s "$BUILD/run/bench-$name/numbers" ] || die "the $name kernel measured nothing"
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
			result[++m] = (ok ? "ok" : "not ok") " - cost of " f[1] " is within " f[2] " x " f[3]
		}
		for (i = 1; i <= m; i++)
			print result[i]
	}' "$BUILD"/run/bench-{stock,fast}/numbers
