#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Every rendered mail as its receivers would look at it first: style, spelling,
# trailers; and the rendered series as they would apply it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

verdict()
{
	local ok=$1 what=$2 file=$3

	if [ "$ok" -eq 0 ]; then
		echo "ok - $what"
	else
		echo "not ok - $what"
		sed 's/^/# /' "$file"
	fi
}

log=$(mktemp -d)
trap 'rm -rf "$log"; kgit worktree remove --force "$BUILD/am" 2> /dev/null || true' EXIT

# The base of the mails may be newer than their "index" lines and positions:
# refresh must see that as no change.
rm -rf "$log/before" && mkdir "$log/before"
(cd "$LAB" && { mails | sed "s|^$LAB/||"; own_files; } | cpio -pd --quiet "$log/before")
rc=0
{
	"$LAB/scripts/tree-guard.sh" && "$LAB/scripts/refresh.sh" &&
		(cd "$log/before" && find . -type f -exec cmp {} "$LAB/{}" \;)
} > "$log/refresh" 2>&1 || rc=1
[ ! -s "$log/refresh" ] || rc=1
verdict "$rc" "refresh right after tree changes nothing" "$log/refresh"

"$LAB/scripts/series.sh"
cp -r "$BUILD/series" "$log/first"
"$LAB/scripts/series.sh"
rc=0
diff -r "$log/first" "$BUILD/series" > "$log/diff" 2>&1 || rc=1
verdict "$rc" "the rendered series has the same bytes twice" "$log/diff"

rc=0
rm -rf "$BUILD/am"
kgit worktree prune
{
	kgit worktree add -q --detach "$BUILD/am" base &&
	GIT_COMMITTER_NAME=lab GIT_COMMITTER_EMAIL=lab@localhost \
		git -C "$BUILD/am" -c core.hooksPath=/dev/null am -q "$BUILD"/series/*.patch &&
	[ "$(git -C "$BUILD/am" rev-parse 'HEAD^{tree}')" = "$(kgit rev-parse 'series^{tree}')" ]
} > "$log/am" 2>&1 || rc=1
verdict "$rc" "git am of the rendered series gives the tree of make tree" "$log/am"

for mail in "$BUILD"/series/*.patch; do
	name=${mail##*/}

	# The sign-off is the submitter's own: git am -s.  FILE_PATH_CHANGES asks
	# whether MAINTAINERS covers a new file: that is looked up below.  Each
	# macro that is a loop uses its arguments more than once, and variants of
	# kselftests are declared by macros.  A trace event has a style of its own.
	rc=0
	ignore=MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,FILE_PATH_CHANGES,MACRO_ARG_REUSE,COMPLEX_MACRO
	! grep -q '^+TRACE_EVENT(' "$mail" || ignore+=,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	(cd "$TREE" && scripts/checkpatch.pl --strict --no-summary --ignore "$ignore" "$mail") \
		> "$log/checkpatch" 2>&1 || rc=1
	verdict "$rc" "checkpatch --strict: $name" "$log/checkpatch"

	rc=0
	# What follows @@ is cut off anywhere; iput() is a function.
	sed 's/^@@.*//' "$mail" > "$log/text"
	codespell -L iput "$log/text" > "$log/codespell" 2>&1 || rc=1
	verdict "$rc" "codespell: $name" "$log/codespell"

	rc=0
	{
		if grep -qi '^Signed-off-by:' "$mail"; then
			echo "has a Signed-off-by: only who submits can give it"
			rc=1
		fi
		if ! grep -q '^Assisted-by: ' "$mail"; then
			echo "lacks the Assisted-by trailer of Documentation/process/coding-assistants.rst"
			rc=1
		fi
		if ! grep -qF "From: $(sed -n 's/^From: //p' "$BUILD/series/0000-cover-letter.mail")" "$mail"; then
			echo "is from somebody else than the cover letter"
			rc=1
		fi
		if sed '/^---$/q' "$mail" | sed '1,/^$/d' | grep -vE '^(Link|Closes|Fixes|Assisted-by): |^>|^    ' | grep -nE '.{76}'; then
			echo "has changelog lines of more than 75 columns"
			rc=1
		fi
	} > "$log/trailers"
	verdict "$rc" "trailers and changelog: $name" "$log/trailers"
done

while read -r path; do
	rc=0
	(cd "$TREE" && scripts/get_maintainer.pl --no-git --no-git-fallback --no-rolestats --nol -f "$path") \
		> "$log/maintainers" 2>&1 || rc=1
	[ -s "$log/maintainers" ] || { echo "MAINTAINERS has nobody for it"; rc=1; } >> "$log/maintainers"
	verdict "$rc" "MAINTAINERS covers $path" "$log/maintainers"
done < <(own_files)

rc=0
while read -r line; do
	case $line in
	''|'#'*) ;;
	*) grep -qxF "$line" "$TREE/MAINTAINERS" || { echo "the series does not add: $line"; rc=1; } ;;
	esac
done < "$LAB/MAINTAINERS" > "$log/entry"
verdict "$rc" "MAINTAINERS here is the entry that the series adds" "$log/entry"
