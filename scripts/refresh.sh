#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# make refresh: write the commits of build/linux back to series/, and the new
# files to their paths here.  A mail in which only positions changed is left as
# it is.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

[ -e "$TREE/.git" ] || die "there is no build/linux: run 'make tree' first"
[ -z "$(kgit status --porcelain)" ] ||
	die "build/linux has uncommitted changes: commit them first ('git -C build/linux commit --fixup=...' and 'rebase -i --autosquash base')"
kgit merge-base --is-ancestor base HEAD ||
	die "build/linux: HEAD is not on top of the tag base"
[ -z "$(kgit rev-list --merges base..HEAD)" ] || die "build/linux: the series has merge commits: rebase it"
[ "$(cat "$TREE/.git/lab-series-id" 2> /dev/null)" = "$(series_id)" ] ||
	die "series/ or the new files here have changed since 'make tree': writing build/linux back would undo that; commit or stash them here, run 'make tree', then repeat your change"

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

# A file is new when the base has not got it, whichever commit brings it.
n=0
while read -r commit; do
	n=$((n + 1))
	mail=$new/$(printf '%04d-%.52s.patch' "$n" "$(kgit show -s --format=%f "$commit")")
	{
		kgit format-patch -1 --stdout --zero-commit --no-signature \
			--no-numbered --subject-prefix=PATCH "$commit" |
			awk '!below { print } /^---$/ { below = 1 }'
		kgit diff-tree -r --no-renames --no-commit-id --name-only --diff-filter=A "$commit" |
			sed 's/^/Adds: /'
		echo
		kgit diff-tree -r -p -U3 --no-renames --no-commit-id --abbrev=12 \
			--diff-filter=a --no-color --no-ext-diff "$commit"
	} > "$mail"
done < <(kgit rev-list --reverse base..HEAD)

mkdir -p "$SERIES"
for mail in "$new"/*.patch; do
	[ -e "$mail" ] || continue
	old=$SERIES/${mail##*/}
	if [ ! -e "$old" ] || ! cmp -s <(mail_essence "$old") <(mail_essence "$mail"); then
		cp "$mail" "$old"
		say "wrote ${old#"$LAB"/}"
	fi
done
while read -r old; do
	if [ ! -e "$new/${old##*/}" ]; then
		rm "$old"
		say "removed ${old#"$LAB"/}"
	fi
done < <(mails)

while read -r path; do
	case $path in
	*/*) [[ " ${ROOTS[*]} " == *" ${path%%/*} "* ]] || die "$path: new files live below ${ROOTS[*]}" ;;
	*) die "$path: new files live below ${ROOTS[*]}" ;;
	esac
	mkdir -p "$LAB/${path%/*}"
	kgit show "HEAD:$path" > "$new/file"
	mode=644
	[ "$(kgit ls-tree HEAD "$path" | cut -c1-6)" != 100755 ] || mode=755
	if ! cmp -s "$new/file" "$LAB/$path" || [ "$(stat -c %a "$LAB/$path")" != "$mode" ]; then
		install -m "$mode" "$new/file" "$LAB/$path"
		say "wrote $path"
	fi
done < <(kgit diff-tree -r --no-renames --name-only --diff-filter=A base HEAD)
while read -r path; do
	if ! kgit cat-file -e "HEAD:$path" 2> /dev/null; then
		rm "$LAB/$path"
		say "removed $path"
	fi
done < <(own_files)

# The stored form must lead back to what it was made of; and from here on the
# tree has the very commits that "make tree" would give it.
head=$("$LAB/scripts/compose.sh")
[ "$(kgit rev-parse "$head^{tree}")" = "$(kgit rev-parse 'HEAD^{tree}')" ] ||
	die "what was written does not lead back to build/linux: please report this"
kgit checkout -q -B series "$head"
kgit update-ref refs/lab/made "$head"
series_id > "$TREE/.git/lab-series-id"
