#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Run shellcheck over every shell script, found by its first line or its name.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$LAB"
mapfile -t files < <(find scripts .ci -type f | sort | while read -r file; do
	case $file in
	*.sh|*.bats) echo "$file" ;;
	*) if head -n 1 "$file" | grep -qE '^#!.*\b(ba|da)?sh\b'; then echo "$file"; fi ;;
	esac
done)
for file in "${files[@]}"; do
	if shellcheck -x "$file"; then
		echo "ok - shellcheck $file"
	else
		echo "not ok - shellcheck $file"
	fi
done
