#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# walk.sh COMMIT: have build/walk/linux, a second work tree of build/linux, at
# that commit.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

src=$BUILD/walk/linux
kgit worktree prune
if ! kgit worktree list --porcelain | grep -qxF "worktree $src"; then
	rm -rf "$src"
	mkdir -p "$BUILD/walk"
	kgit worktree add -q --detach "$src" base
fi
# With -f, as the one before may have been killed in the middle of it.
git -C "$src" -c core.hooksPath=/dev/null checkout -q -f --detach "$1"
