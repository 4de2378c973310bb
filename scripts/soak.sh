#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make soak: the races, for minutes, on the debug kernel with parallel CPUs.
# soak.sh [ROUNDS]: of each race; the last line is that of make check.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$LAB/scripts/packages.sh"
"$LAB/scripts/tree.sh" --keep
"$LAB/scripts/kernel.sh" debug
"$LAB/scripts/selftests.sh"
exec "$LAB/scripts/boot.sh" --parallel --plan "$LAB/scripts/plans/races" \
	--env "VFIO_SELFTESTS_RACE_ROUNDS=${1:-1000}" --timeout 14400 --test-timeout 7200 debug
