#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Have the stock kernel, without the series, in build/stock: what boots of it.  It
# is built in build/walk/fast, from where the walk over the commits goes on.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

"$LAB/scripts/tree.sh" --keep
walk=$BUILD/walk
stock=$BUILD/stock
id=$(kgit rev-parse "base^{tree}")
mapfile -t fragments < <(kernel_fragments fast)
if is_built "$stock" "$id" "$(config_wanted "${fragments[@]}")"; then
	exit 0
fi

"$LAB/scripts/walk.sh" base
"$LAB/scripts/kernel.sh" fast "$walk/linux" "$walk/fast"
copy_bootable "$walk/fast" "$stock"
