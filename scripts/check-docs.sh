#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What is written must be true: README.md, and the chapter of the kernel's
# documentation. Each block of C builds, against libvfio where it includes it, or is a
# part of the file that it names. Sphinx builds the chapter without a warning, and the
# trace events and files that it names are there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

chapter=driver-api/vfio-dmabuf
docs=$TREE/Documentation/$chapter
work=$BUILD/docs
objects=$BUILD/kselftest-objects

# One line of TAP: 0 for success, what it is about, and a file with what went wrong
result()
{
	if [ "$1" -eq 0 ]; then
		echo "ok - $2"
	else
		echo "not ok - $2"
		[ $# -lt 3 ] || sed 's/^/# /' "$3"
	fi
}

# A program that includes libvfio is built as the tests are, all others by gcc alone.
build_block()
{
	local file=$1 name

	if grep -q '<libvfio\.h>' "$file"; then
		# make takes a colon for its own.
		name=$(basename "${file%.c}" | tr : -)
		cp "$file" "$work/libvfio/$name.c"
		make -C "$TREE/tools/testing/selftests/vfio" OUTPUT="$objects/kselftest/vfio" \
			LDFLAGS=-static CC=gcc KHDR_INCLUDES="-isystem $objects/usr/include" \
			VPATH="$work/libvfio" TEST_GEN_PROGS="$objects/kselftest/vfio/$name" \
			"$objects/kselftest/vfio/$name"
		return
	fi
	head -n 1 "$file" | grep -q '^#' || {
		echo "error: it neither begins with an #include, nor says which file it quotes"
		return 1
	}
	gcc -Wall -Wextra -Wno-unused-parameter -Werror -O2 -I "$objects/usr/include" \
		-c -o "${file%.c}.o" "$file"
}

check_blocks()
{
	local file name source rc

	"$LAB/scripts/docs.py" blocks "$work/blocks" "$@"
	for file in "$work/blocks"/*.c; do
		[ -e "$file" ] || continue
		rc=0
		build_block "$file" > "${file%.c}.log" 2>&1 || rc=$?
		grep -E 'error|warning' "${file%.c}.log" > "${file%.c}.errors" || true
		result "$rc" "$(basename "${file%.c}") builds" "${file%.c}.errors"
	done

	while read -r name source; do
		rc=0
		file=$TREE/$source
		[ -e "$file" ] || file=$LAB/$source
		[[ $(printf '\n'; cat "$file") == *$'\n'"$(cat "$work/blocks/$name.quote")"* ]] ||
			rc=1
		diff "$file" "$work/blocks/$name.quote" 2>&1 | sed -n 's/^>//p' \
			> "$work/blocks/$name.errors" || true
		result "$rc" "$name quotes $source" "$work/blocks/$name.errors"
	done < "$work/blocks/quotes"
}

# From nothing, as Sphinx warns of a file only when it reads it.
check_sphinx()
{
	local log=$work/sphinx.log rc=0 file page

	make -C "$TREE" O="$work/html" SPHINXDIRS="$chapter" htmldocs > "$log" 2>&1 || rc=$?
	result "$rc" "Sphinx builds the chapter" "$log"

	for file in "$@" $(sed -n 's/^\.\. kernel-doc:: //p' "$@" | sort -u); do
		grep -E '\b(WARNING|ERROR|CRITICAL|SEVERE)\b' "$log" |
			grep -F "${file#"$TREE"/}" > "$work/warnings" || true
		rc=0
		[ ! -s "$work/warnings" ] || rc=1
		result "$rc" "Sphinx warns of nothing in ${file#"$TREE"/}" "$work/warnings"
	done
	for file in "$@"; do
		page=$work/html/Documentation/output/$chapter/$(basename "$file" .rst).html
		rc=0
		[ -s "$page" ] || rc=1
		result "$rc" "there is a page of $(basename "$file")"
	done
	for file in driver-api/index.rst driver-api/vfio.rst; do
		rc=0
		grep -q vfio-dmabuf/index "$TREE/Documentation/$file" || rc=1
		result "$rc" "$file leads to the chapter"
	done
}

rm -rf "$work"
mkdir -p "$work/blocks" "$work/libvfio" "$work/html"
pages=("$docs"/*.rst)
# Where there is none, nothing would be a pass.
[ -e "$docs/index.rst" ] || die "there is no $docs"
grep -q '^```c' "$LAB/README.md" || die "README.md has no block of C"
grep -q 'code-block:: c$' "${pages[@]}" || die "the chapter has no block of C"

# Warnings tell paths by the name that make was given.
check_sphinx "${pages[@]}"
check_blocks "$LAB/README.md" "${pages[@]}"
"$LAB/scripts/docs.py" names "$TREE" "${pages[@]}"

rc=0
awk '(length > 80 && !/^\t/) || /[ \t]$/ { print FILENAME ":" FNR; bad = 1 } END { exit bad }' \
	"${pages[@]}" > "$work/lines" || rc=$?
result "$rc" "no line of the chapter is too long, or ends in a space" "$work/lines"
rc=0
codespell -L iput "${pages[@]}" > "$work/spelling" 2>&1 || rc=$?
result "$rc" "the chapter is spelled right" "$work/spelling"
