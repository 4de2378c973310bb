#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Make the commits of the series on top of the base, as git objects only, and
# print the last one's id.  No work tree is touched, so a series that is wrong
# leaves everything as it was.
#
# A new file is stored in its final text.  The text in which it arrives is found
# by taking the hunks of the later mails back, last mail first; the commits are
# then made forward, and must end in the stored text again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export GIT_INDEX_FILE=$work/index

kgit rev-parse -q --verify base > /dev/null || die "build/linux has no base: run scripts/source.sh"
mapfile -t list < <(mails)
declare -A owner
base=$(kgit rev-parse "base^{commit}")

errors=0
wrong()
{
	printf '%s\n' "$*" >&2
	errors=$((errors + 1))
}

# Who brings what, before anything is made of it.
for mail in "${list[@]}"; do
	name=series/${mail##*/}
	for header in From Date Subject; do
		grep -q -m1 "^$header: " "$mail" || wrong "$name: no $header: line"
	done
	[ "$(grep -c '^---$' "$mail")" -eq 1 ] ||
		wrong "$name: needs exactly one line \"---\" between the changelog and the rest"
	while read -r path; do
		if [ -n "${owner[$path]:-}" ]; then
			wrong "$name: $path is claimed by ${owner[$path]} already: a new file arrives with one mail"
		fi
		owner[$path]=$name
		[[ " ${ROOTS[*]} " == *" ${path%%/*} "* ]] ||
			wrong "$name: $path: new files live below ${ROOTS[*]}"
		[ -f "$LAB/$path" ] || wrong "$name: claims $path, which this repository does not have"
		if kgit cat-file -e "base:$path" 2> /dev/null; then
			wrong "$name: $path exists in the base: change it with a hunk"
		fi
	done < <(mail_adds "$mail")
	while read -r path; do
		wrong "$name: new file $path inside a diff: store it whole at $path and write \"Adds: $path\" in the mail"
	done < <(mail_diff "$mail" | awk '/^diff --git / { path = substr($4, 3) } /^new file mode / { print path }')
	mail_diff "$mail" > "$work/${mail##*/}.diff"
done
while read -r path; do
	[ -n "${owner[$path]:-}" ] ||
		wrong "$path: no mail of series/ has a line \"Adds: $path\""
done < <(own_files)
[ "$errors" -eq 0 ] || die "series/ and the new files do not fit together ($errors errors above)"

# Paths that the diff of mail $1 changes.
changed()
{
	[ -s "$work/${1##*/}.diff" ] || return 0
	kgit apply --numstat "$work/${1##*/}.diff" | cut -f3-
}

# Back: from the final texts to the ones in which the files arrived.
declare -A arrival
kgit read-tree --empty
for path in "${!owner[@]}"; do
	mode=100644
	[ ! -x "$LAB/$path" ] || mode=100755
	blob=$(kgit hash-object -w --no-filters "$LAB/$path")
	kgit update-index --add --cacheinfo "$mode,$blob,$path"
	arrival[$path,final]="$mode,$blob"
done
for ((i = ${#list[@]} - 1; i >= 0; i--)); do
	mail=${list[i]}
	name=series/${mail##*/}
	while read -r path; do
		arrival[$path]=$(kgit ls-files -s "$path" | awk '{ print $1 "," $2 }')
		kgit update-index --force-remove "$path"
	done < <(mail_adds "$mail")
	include=()
	while read -r path; do
		[ -n "${owner[$path]:-}" ] || continue
		[ -z "${arrival[$path]:-}" ] ||
			die "$name: has a hunk for $path, which arrives with ${owner[$path]}: hunks of a new file belong in later mails"
		include+=("--include=$path")
	done < <(changed "$mail")
	if [ "${#include[@]}" -gt 0 ]; then
		kgit apply --cached -R "${include[@]}" "$work/${mail##*/}.diff" ||
			die "$name: the hunks of the new files named above cannot be taken back: the stored text is not what this mail makes of them"
	fi
done

# Forward.
kgit read-tree "$base"
parent=$base
for mail in "${list[@]}"; do
	name=series/${mail##*/}
	if [ -s "$work/${mail##*/}.diff" ]; then
		kgit apply --cached "$work/${mail##*/}.diff" 2> "$work/err" || {
			cat "$work/err" >&2
			die "$name: does not apply to $(cat "$TREE/.git/lab-base-id"): rebase the series, or give another tree with LINUX="
		}
	fi
	while read -r path; do
		kgit update-index --add --cacheinfo "${arrival[$path]},$path"
	done < <(mail_adds "$mail")
	kgit mailinfo -b --no-scissors "$work/msg" /dev/null < "$mail" > "$work/info"
	{
		sed -n 's/^Subject: //p' "$work/info"
		echo
		cat "$work/msg"
	} > "$work/commit"
	GIT_AUTHOR_NAME=$(sed -n 's/^Author: //p' "$work/info")
	GIT_AUTHOR_EMAIL=$(sed -n 's/^Email: //p' "$work/info")
	GIT_AUTHOR_DATE=$(sed -n 's/^Date: //p' "$work/info")
	export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE
	export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
	export GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
	tree=$(kgit write-tree)
	[ "$tree" != "$(kgit rev-parse "$parent^{tree}")" ] || die "$name: changes nothing"
	parent=$(kgit commit-tree "$tree" -p "$parent" -F "$work/commit")
done

for path in "${!owner[@]}"; do
	[ "$(kgit ls-files -s "$path" | awk '{ print $1 "," $2 }')" = "${arrival[$path,final]}" ] ||
		die "$path: taking the hunks of the later mails back and replaying them gives another text"
done
echo "$parent"
