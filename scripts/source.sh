#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Bring the base kernel into build/linux, as a git tree whose tag "base" is the
# untouched source.  LINUX=/path/to/tree takes a user's own tree, a git tree at
# its HEAD or an unpacked one, and leaves that as it is.  Without it the newest
# 7.3 that Debian has is fetched.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
. "$LAB/scripts/debian.sh"

SERIES_BASE=7.3
fetch_debian()
{
	local version deb

	debian_lists "looking for Linux $SERIES_BASE in Debian"
	version=$(private_apt apt-cache madison "linux-source-$SERIES_BASE" |
		  awk -F '|' '{ gsub(/ /, "", $2); print $2 }' | sort -V | tail -n 1)
	[ -n "$version" ] ||
		die "Debian has no linux-source-$SERIES_BASE in ${SUITES[*]}: give a tree with LINUX=/path/to/linux"
	id="debian $version"
	(
		cd "$FETCH"
		rm -rf linux-source-*.deb deb
		with_progress "downloading linux-source-$SERIES_BASE $version (165 MB)" \
			"$BUILD/log/source-download.log" \
			private_apt apt-get download "linux-source-$SERIES_BASE=$version"
		deb=$(echo linux-source-*.deb)
		dpkg-deb -x "$deb" deb
		say "unpacking $deb"
		rm -rf "$TREE.new"
		mkdir -p "$TREE.new"
		tar -xf deb/usr/src/linux-source-*.tar.* --strip-components=1 -C "$TREE.new"
		rm -rf deb "$deb"
	)
	# Debian's packaging hides all of the top level from git add; drop what
	# it appended to the kernel's own list.
	sed -i '/^# Debian packaging: ignore everything/,$d' "$TREE.new/.gitignore"
	sed -i '${/^#$/d}' "$TREE.new/.gitignore"
	import_files
}

# Files to a git tree in one pack: loose objects would be 90,000 files.
import_files()
{
	say "making a git tree of it"
	GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null bash -euc '
		cd "$1"
		git init -q -b series .
		git config core.autocrlf false
		git -c core.bigFileThreshold=1 -c core.compression=1 add -f -A
		export GIT_AUTHOR_NAME=lab GIT_AUTHOR_EMAIL=lab@localhost
		export GIT_COMMITTER_NAME=lab GIT_COMMITTER_EMAIL=lab@localhost
		export GIT_AUTHOR_DATE="1700000000 +0000" GIT_COMMITTER_DATE="1700000000 +0000"
		git -c gc.auto=0 commit -q -m "base: $2"
		git tag base
	' import "$TREE.new" "$id"
}

copy_unpacked()
{
	say "copying $LINUX"
	rm -rf "$TREE.new"
	cp -a --reflink=auto "$LINUX" "$TREE.new"
	# What an earlier build left there is no source, and kbuild refuses to
	# build out of a tree that has it.
	with_progress "cleaning the copy" "$BUILD/log/mrproper.log" make -C "$TREE.new" mrproper
	import_files
}

clone_git()
{
	if [ -n "$(git --no-optional-locks -C "$LINUX" status --porcelain --untracked-files=no)" ]; then
		say "note: uncommitted changes in $LINUX are not used, only its HEAD"
	fi
	say "cloning $LINUX"
	rm -rf "$TREE.new"
	git clone -q --shared --no-checkout --no-tags "$LINUX" "$TREE.new"
	# One branch and one tag, whatever the user's tree calls its own.
	git -C "$TREE.new" update-ref refs/lab/base "$(git -C "$LINUX" rev-parse HEAD)"
	git -C "$TREE.new" checkout -q --detach refs/lab/base
	git -C "$TREE.new" remote remove origin
	git -C "$TREE.new" for-each-ref --format='delete %(refname)' refs/heads refs/remotes |
		git -C "$TREE.new" update-ref --stdin
	git -C "$TREE.new" checkout -q -b series
	git -C "$TREE.new" tag base
}

# What the base is made of, to see whether the one at hand is still it.
unpacked_id()
{
	(cd "$LINUX" && find . -name .git -prune -o -type f -printf '%P %s %T@\n' |
		sort | sha256sum | cut -c1-16)
}

have=$(cat "$TREE/.git/lab-base-id" 2> /dev/null || true)

if [ -n "${LINUX:-}" ]; then
	[ -d "$LINUX" ] || die "LINUX=$LINUX is not a directory"
	LINUX=$(cd "$LINUX" && pwd -P)
	case $LINUX/ in
	"$LAB"/*) die "LINUX=$LINUX lies in this repository: give a tree of your own" ;;
	esac
	if [ ! -f "$LINUX/Kbuild" ] || [ ! -f "$LINUX/MAINTAINERS" ]; then
		die "LINUX=$LINUX is not a Linux source tree: it has no Kbuild and MAINTAINERS"
	fi
	if [ -e "$LINUX/.git" ]; then
		head=$(git -C "$LINUX" rev-parse HEAD) ||
			die "LINUX=$LINUX: git cannot read it (see above)"
		id="git $LINUX $head"
	else
		id="files $LINUX $(unpacked_id)"
	fi
else
	# The archive is asked once: a newer kernel would pull the base from
	# under a developer's feet.  "rm -rf build/linux" asks again.
	case $have in
	debian\ *) id=$have ;;
	*) id= ;;
	esac
fi

if [ -n "$id" ] && [ "$id" = "$have" ]; then
	exit 0
fi
if [ -e "$TREE" ]; then
	"$LAB/scripts/tree-guard.sh" ||
		die "build/linux is based on \"$have\" and would be replaced by ${LINUX:-the one of Debian}"
fi
need_disk 12
case $id in
git\ *)	clone_git ;;
files\ *) copy_unpacked ;;
*)	fetch_debian ;;
esac
echo "$id" > "$TREE.new/.git/lab-base-id"
rm -rf "$TREE"
mv "$TREE.new" "$TREE"
say "base: $id, $(make -s -C "$TREE" kernelversion)"
