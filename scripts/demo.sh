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
"$LAB/scripts/selftests.sh" fast
"$LAB/scripts/boot.sh" --plan "$LAB/scripts/plans/demo" fast
