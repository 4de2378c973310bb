#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Have the stock kernel, without the series, in build/stock: what boots of it.  It
# is built in build/walk/fast, from where the walk over the commits goes on.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

"$LAB/scripts/tree.sh" --keep
walk=$BUILD/walk
stock=$BUILD/stock
id=$(kgit rev-parse "base^{tree}")
config=$(cat "$LAB"/scripts/config/fast.config "$LAB"/tools/testing/selftests/vfio/config* | sha256sum)
if [ "$(cat "$stock/.lab-tree" 2> /dev/null)" = "$id" ] &&
   [ "$(cat "$stock/.lab-sources" 2> /dev/null)" = "$config" ]; then
	exit 0
fi

"$LAB/scripts/walk.sh" base
"$LAB/scripts/kernel.sh" fast "$walk/linux" "$walk/fast"
rm -rf "$stock"
mkdir -p "$stock/arch/x86/boot" "$stock/usr"
cp "$walk/fast/arch/x86/boot/bzImage" "$stock/arch/x86/boot"
cp "$walk/fast/usr/gen_init_cpio" "$stock/usr"
cp -r "$walk/fast"/{.config,root} "$stock"
echo "$config" > "$stock/.lab-sources"
echo "$id" > "$stock/.lab-tree"
