# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# How a stored mail is read.  A mail of series/ is what git format-patch makes
# of a commit, less the new files: each has one line "Adds: path" below the
# "---" instead, and its text lies whole in this repository.

SERIES=$LAB/series

mails()
{
	find "$SERIES" -maxdepth 1 -name '[0-9]*.patch' ! -name '0000-*' | sort
}

# The paths of the new files that arrive with mail $1.
mail_adds()
{
	awk '/^diff --git / { exit } below && sub(/^Adds: /, "") { print } /^---$/ { below = 1 }' "$1"
}

# The diffs of mail $1; nothing for a mail that only adds files.
mail_diff()
{
	sed -n '/^diff --git /,$p' "$1"
}

# What two makings of one mail must agree on.  Where in a file a hunk lies and
# which blob it was made against is the base's business: it changes whenever
# the base does, and no mail may be rewritten for that.
mail_essence()
{
	sed -E -e 's/^@@ -[0-9]+(,[0-9]+)? \+[0-9]+(,[0-9]+)? @@.*/@@ \1 \2/' \
		-e '/^index [0-9a-f]+\.\.[0-9a-f]+/d' "$1"
}

# The new files of the series, as paths in the kernel tree.
own_files()
{
	local root

	for root in "${ROOTS[@]}"; do
		[ ! -d "$LAB/$root" ] || (cd "$LAB" && find "$root" -type f)
	done | sort
}

# One value for all that "make tree" makes the tree of.
series_id()
{
	(
		cd "$LAB" || exit
		{ mails | sed "s|^$LAB/||"; own_files; } | while read -r file; do
			printf '%s %s ' "$file" "$(stat -c %A "$file" | cut -c4)"
			sha256sum < "$file"
		done | sha256sum | cut -c1-32
	)
}
