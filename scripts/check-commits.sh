#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Walk the series commit by commit, in a work tree of its own: each commit must
# build, kernel and kselftests, and must not add a warning of gcc (W=1) or
# sparse (C=2) to an object it touches, nor one of kernel-doc to a file.
#
# Warnings are compared without line numbers with those of the commit before.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

walk=$BUILD/walk
src=$walk/linux
out=$walk/fast
log=$BUILD/log/walk
mkdir -p "$walk" "$log"

# What commit $1 changes, of what is left at the end of it.
touched()
{
	kgit diff-tree -r --no-commit-id --name-only --diff-filter=d "$1"
}

# Objects of the kernel whose source file commit $1 touches, and that this
# configuration builds.
objects()
{
	local file object
	while read -r file; do
		case $file in
		tools/*|Documentation/*|scripts/*) continue ;;
		*.c) object=${file%.c}.o ;;
		*) continue ;;
		esac
		if [ -e "$out/$object" ]; then echo "$object"; fi
	done < <(touched "$1") | sort -u
}

# The warnings that $2... have, at the commit that is checked out, into $1.
warnings()
{
	local to=$1 object
	shift
	: > "$to"
	for object in "$@"; do
		[ -e "$src/${object%.o}.c" ] || continue
		rm -f "${out:?}/$object"
		make -C "$src" O="$out" CC="ccache gcc" W=1 C=2 CHECK="$sparse" "$object" 2>&1 |
			grep -E '(warning|error):' |
			sed -E 's|^([^:]+):[0-9]+(:[0-9]+)?:|\1:|' >> "$to" || true
	done
	sort -o "$to" "$to"
}

docs()
{
	local to=$1 file
	shift
	: > "$to"
	for file in "$@"; do
		[ -e "$src/$file" ] || continue
		(cd "$src" && scripts/kernel-doc -none -Wall "$file") 2>&1 |
			sed -E 's|:[0-9]+ |: |' | grep -i warning >> "$to" || true
	done
	sort -o "$to" "$to"
}

sparse=$("$LAB/scripts/sparse.sh")
"$LAB/scripts/walk.sh" base
"$LAB/scripts/kernel.sh" fast "$src" "$out" > /dev/null
# They depend on headers that are not there yet, if an earlier walk left them.
rm -rf "$out/kselftest-objects"
n=0
while read -r commit; do
	n=$((n + 1))
	subject=$(kgit show -s --format=%s "$commit")
	tag=$log/$(printf '%04d' "$n")
	mapfile -t files < <(touched "$commit" | grep '\.[ch]$' || true)

	# Before: the parent is still checked out and built.
	mapfile -t objs < <(objects "$commit")
	warnings "$tag.before" "${objs[@]}"
	docs "$tag.docs-before" "${files[@]}"

	"$LAB/scripts/walk.sh" "$commit"
	if ! (KERNEL_WARNINGS='' "$LAB/scripts/kernel.sh" fast "$src" "$out") > /dev/null; then
		echo "not ok - builds: $subject"
		exit 1
	fi
	echo "ok - builds: $subject"

	mapfile -t objs < <(objects "$commit")
	warnings "$tag.after" "${objs[@]}"
	docs "$tag.docs-after" "${files[@]}"
	for kind in "" docs-; do
		what="gcc W=1, sparse C=2 on ${objs[*]##*/}"
		[ -z "$kind" ] || what="kernel-doc on ${files[*]##*/}"
		# A commit with nothing to look at has not passed anything.
		[ -n "${what##* on }" ] || continue
		if comm -13 "$tag.${kind}before" "$tag.${kind}after" | grep . > "$tag.new"; then
			echo "not ok - no new warnings, $what: $subject"
			sed 's/^/# /' "$tag.new"
		else
			echo "ok - no new warnings, $what: $subject"
		fi
	done

	if touched "$commit" | grep -q '^tools/testing/selftests/\|^include/uapi/'; then
		if LAB_TREE=$src "$LAB/scripts/selftests.sh" walk/fast > "$tag.selftests" 2>&1; then
			echo "ok - kselftests build: $subject"
		else
			echo "not ok - kselftests build: $subject"
			tail -n 15 "$tag.selftests" | sed 's/^/# /'
		fi
	fi
done < <(kgit rev-list --reverse base..series)
