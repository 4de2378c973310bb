#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make tree: build/linux becomes the base plus one commit a mail.  Files that
# do not change keep their time stamps, so a kernel built of it before is
# brought up to date and not built anew.
#
# With --keep, work that is not in series/ yet stays, and is what is used.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

"$LAB/scripts/source.sh"
if ! "$LAB/scripts/tree-guard.sh" 2> "$BUILD/guard"; then
	[ "${1:-}" = --keep ] || { cat "$BUILD/guard" >&2; exit 1; }
	say "note: build/linux has work that is not in series/; it is used as it is"
	exit 0
fi
id=$(series_id)
if [ "$(cat "$TREE/.git/lab-series-id" 2> /dev/null)" = "$id" ]; then
	exit 0
fi
head=$("$LAB/scripts/compose.sh")
kgit checkout -q -B series "$head"
kgit update-ref refs/lab/made "$head"
echo "$id" > "$TREE/.git/lab-series-id"
say "build/linux: $(kgit rev-list --count base..series) commits on $(cat "$TREE/.git/lab-base-id")"
