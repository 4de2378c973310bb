#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Succeed when build/linux holds nothing that series/ does not: only then may
# it be made anew.  Otherwise say what is there and what to do about it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ -e "$TREE/.git" ] || exit 0
# Nothing was ever made of this base: there can be no work on top of it.
made=$(kgit rev-parse -q --verify refs/lab/made || kgit rev-parse base)

if [ -n "$(kgit status --porcelain --untracked-files=normal)" ]; then
	kgit status --short | head -n 10 >&2
	die "build/linux has uncommitted changes: commit them and run 'make refresh', or throw them away with 'git -C build/linux reset --hard && git -C build/linux clean -fd'"
fi
if [ "$(kgit rev-parse HEAD)" != "$made" ]; then
	kgit log --oneline "base..HEAD" | head -n 20 >&2
	die "build/linux has commits that series/ has not: run 'make refresh' to keep them, or 'git -C build/linux reset --hard refs/lab/made' to throw them away"
fi
