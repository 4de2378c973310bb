#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make bench: what the paths to a device's memory cost on the stock kernel and on
# the series, side by side. Instructions are exact and the same on every machine,
# so each has a limit. How much a second thread brings, in percent of the work of
# one, is a matter of time, so its limit leaves room for what else the machine
# does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# name, limit as a factor, of what: another number of the series, or "stock": the
# stock kernel's number of the same name or, after a colon, of that name. The
# number must not be greater, and after ">" not less.
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
bar-two-threads			>0.75	stock
delegated-two-threads		>0.75	stock:bar-two-threads
'

"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/walk.sh" base
# Beside its source as build/fast is, so that ccache knows the files.
stock=walk/stock
"$LAB/scripts/kernel.sh" fast "$BUILD/walk/linux" "$BUILD/$stock"
"$LAB/scripts/kernel.sh" fast
"$LAB/scripts/selftests.sh" fast
ln -sfn ../../fast/kselftest "$BUILD/$stock/kselftest"

# measure KERNEL PLAN OPTION...
measure()
{
	local kernel=$1 plan=$2 out=$BUILD/run/$2-${1##*/} log=$BUILD/log/$2-${1##*/}.log
	shift 2

	"$LAB/scripts/boot.sh" --cpu max "$@" --plan "$LAB/scripts/plans/$plan" --out "$out" \
		"$kernel" > "$log" ||
		{ cat "$log"; die "the $kernel kernel did not finish its measurements"; }
	sed -n 's/^ *# bench \([a-z0-9-]* [0-9]*\)$/\1/p' "$out/ktap.log" > "$out/numbers"
	[ -s "$out/numbers" ] || die "the $kernel kernel measured nothing"
}

for kernel in "$stock" fast; do
	name=${kernel##*/}
	# The CPU of the numbers that are published, whatever it costs to emulate.
	measure "$kernel" bench --icount --append transparent_hugepage_shmem=never
	measure "$kernel" scaling --parallel
	cat "$BUILD/run/"{bench,scaling}"-$name/numbers" > "$BUILD/run/bench-$name/all"
done

# shellcheck disable=SC2016 # awk's own variables
LIMITS=$limits awk '
	FNR == 1 { file++ }
	file == 1 { stock[$1] = $2 }
	file == 2 { series[$1] = $2 }
	END {
		printf "# %-28s %8s %8s %7s  %s\n", "instructions or percent", "stock", "series", "ratio", "limit"
		n = split(ENVIRON["LIMITS"], line, "\n")
		for (i = 1; i <= n; i++) {
			if (split(line[i], f, /[ \t]+/) < 3)
				continue
			split(f[3], of, ":")
			name = of[2] ? of[2] : of[1] == "stock" ? f[1] : of[1]
			base = of[1] == "stock" ? stock[name] : series[name]
			limit = f[2]
			least = sub(/^>/, "", limit)
			ok = (f[1] in series) && base > 0 && \
				(least ? series[f[1]] >= limit * base : series[f[1]] <= limit * base)
			printf "# %-28s %8s %8s %7.3f  %s x %s\n", f[1],
				((f[1] in stock) ? stock[f[1]] : "-"),
				((f[1] in series) ? series[f[1]] : "-"),
				((base > 0) ? series[f[1]] / base : 0), f[2], f[3]
			result[++m] = (ok ? "ok" : "not ok") " - " f[1] " is within " f[2] " x " f[3]
		}
		for (i = 1; i <= m; i++)
			print result[i]
	}' "$BUILD"/run/bench-{stock,fast}/all
