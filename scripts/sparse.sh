#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Print the path of a sparse that this kernel accepts: the system's, or the
# newest one of Debian, built into build/sparse.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
. "$LAB/scripts/debian.sh"

accepted()
{
	"$1" --version > /dev/null 2>&1 &&
		[ "$(sh "$TREE/scripts/checker-valid.sh" "$1" 2> /dev/null)" = 1 ]
}

built=$BUILD/sparse/sparse
if accepted sparse; then
	command -v sparse
	exit
fi
if ! accepted "$built"; then
	debian_lists "looking for a newer sparse in Debian"
	rm -rf "$BUILD/sparse" "$BUILD/sparse.new"
	mkdir -p "$BUILD/sparse.new"
	(
		cd "$BUILD/sparse.new"
		with_progress "fetching sparse" "$BUILD/log/sparse-fetch.log" \
			private_apt apt-get source sparse
		# Only the checker: its companions need libraries.
		with_progress "building sparse" "$BUILD/log/sparse-build.log" \
			make -C sparse-*/ -j"$JOBS" CC=gcc sparse
		mv sparse-*/sparse .
	) >&2
	mv "$BUILD/sparse.new" "$BUILD/sparse"
	accepted "$built" || die "the kernel does not accept Debian's newest sparse either: see scripts/checker-valid.sh in build/linux"
fi
echo "$built"
