#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make series: render the complete mails into build/series/, for git am or b4.
# The same series on the same base gives the same bytes every time.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

"$LAB/scripts/tree.sh"
cover=$SERIES/0000-cover-letter.patch
out=$BUILD/series
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -e "$cover" ] || die "series/0000-cover-letter.patch is missing"
kgit mailinfo -b --no-scissors "$work/msg" /dev/null < "$cover" > "$work/info"
{
	sed -n 's/^Subject: //p' "$work/info"
	echo
	cat "$work/msg"
} > "$work/description"
kgit config branch.series.description "$(cat "$work/description")"

# The cover letter's date is the committer's, which git takes from here.
GIT_COMMITTER_NAME=$(sed -n 's/^Author: //p' "$work/info")
GIT_COMMITTER_EMAIL=$(sed -n 's/^Email: //p' "$work/info")
GIT_COMMITTER_DATE=$(sed -n 's/^Date: //p' "$work/info")
export GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE
rm -rf "$out.new"
kgit format-patch -q -o "$out.new" --zero-commit --no-signature --full-index --no-renames \
	--numbered --subject-prefix=PATCH --cover-letter --cover-from-description=subject \
	base..series
# git am stumbles over a cover letter: keep it out of what *.patch matches.
mv "$out.new/0000-cover-letter.patch" "$out.new/0000-cover-letter.mail"
rm -rf "$out"
mv "$out.new" "$out"
say "$(find "$out" -name '*.patch' | wc -l) mails: 'git am build/series/*.patch' applies them, 'git send-email build/series/*' takes the cover letter along"
