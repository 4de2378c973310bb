#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The series machinery, on a kernel of five files.

# shellcheck disable=SC2164 # bats ends a test at the first command that fails
bats_require_minimum_version 1.5.0

# One project with a series of three mails, made once and copied for each test:
#   1 changes a file of the base and brings a new one
#   2 lets the new file grow, and brings an executable script
#   3 lets it grow again, and changes the base file again
setup_file()
{
	local k=$BATS_FILE_TMPDIR/kernel p=$BATS_FILE_TMPDIR/project

	export GIT_AUTHOR_NAME="A Developer" GIT_AUTHOR_EMAIL=dev@example.org
	export GIT_COMMITTER_NAME="A Developer" GIT_COMMITTER_EMAIL=dev@example.org
	mkdir -p "$k/drivers/foo" "$k/tools"
	printf 'kernelversion:\n\t@echo 7.3.0-mini\nmrproper:\n\trm -f *.o\n' > "$k/Makefile"
	touch "$k/Kbuild" "$k/MAINTAINERS"
	seq 1 40 > "$k/drivers/foo/core.c"
	echo '*.o' > "$k/.gitignore"
	touch "$k/left-over.o"

	mkdir -p "$p/series"
	cp -r "$BATS_TEST_DIRNAME/../../scripts" "$p/"
	printf 'From: A Developer <dev@example.org>\nDate: Mon, 2 Mar 2026 10:00:00 +0000\nSubject: [PATCH] foo: a title\n\nWhy.\n' \
		> "$p/series/0000-cover-letter.patch"
	cd "$p"
	LINUX=$k scripts/tree.sh

	cd build/linux
	export GIT_AUTHOR_DATE="2026-03-01T10:00:00Z" GIT_COMMITTER_DATE="2026-03-01T10:00:00Z"
	sed -i 's/^5$/five/' drivers/foo/core.c
	seq 101 120 > drivers/foo/new.c
	git add -A && git commit -q -m 'foo: one' -m 'It has to start somewhere.'
	sed -i 's/^103$/103 grown/' drivers/foo/new.c
	printf '#!/bin/sh\n' > tools/run.sh && chmod +x tools/run.sh
	git add -A && git commit -q -m 'foo: two' -m 'Because.'
	sed -i 's/^30$/thirty/' drivers/foo/core.c
	echo 121 >> drivers/foo/new.c
	git add -A && git commit -q -m 'foo: three' -m 'Why not.'
	cd ../..
	scripts/refresh.sh
}

setup()
{
	# The base's identity names the path: project and kernel stay where they are.
	cp -a "$BATS_FILE_TMPDIR/project" "$BATS_TEST_TMPDIR/project"
	cd "$BATS_TEST_TMPDIR/project"
	export LINUX=$BATS_FILE_TMPDIR/kernel
}

# The tool must fail, and its message must name what is wrong.
refused()
{
	local word
	run scripts/tree.sh
	echo "$output"
	[ "$status" -ne 0 ]
	for word in "$@"; do
		[[ $output == *"$word"* ]]
	done
	# And nothing of the wrong series was taken over.
	[ "$(git -C build/linux rev-parse series)" = "$(git -C build/linux rev-parse refs/lab/made)" ]
}

@test "mails hold diffs of base files only, new files lie whole in their final text" {
	[ "$(ls series)" = "$(printf '%s\n' 0000-cover-letter.patch 0001-foo-one.patch 0002-foo-two.patch 0003-foo-three.patch)" ]
	grep -qx 'Adds: drivers/foo/new.c' series/0001-foo-one.patch
	grep -qx 'Adds: tools/run.sh' series/0002-foo-two.patch
	run ! grep -q 'new file mode' series/*.patch
	grep -qx '103 grown' drivers/foo/new.c
	grep -qx 121 drivers/foo/new.c
	[ -x tools/run.sh ]
}

@test "tree gives back the very commits that refresh wrote down" {
	before=$(git -C build/linux rev-parse series)
	rm -rf build/linux
	scripts/tree.sh
	[ "$(git -C build/linux rev-parse series)" = "$before" ]
	# In the commit that brings the file, it has not grown yet.
	run ! git -C build/linux grep -q grown series~2 -- drivers/foo/new.c
}

@test "refresh right after tree changes nothing" {
	cp -r series drivers tools "$BATS_TEST_TMPDIR/"
	rm -rf build/linux
	scripts/tree.sh
	run scripts/refresh.sh
	[ "$status" -eq 0 ]
	[ -z "$output" ]
	for d in series drivers tools; do diff -r "$d" "$BATS_TEST_TMPDIR/$d"; done
}

@test "refresh takes an amended series over, and tree makes it again" {
	cd build/linux
	git reset -q --hard series~1
	sed -i 's/^110$/110 instead/' drivers/foo/new.c
	git rm -q tools/run.sh
	git -c core.editor=true commit -q -a --amend
	cd ../..
	scripts/refresh.sh
	[ ! -e tools/run.sh ]
	[ ! -e series/0003-foo-three.patch ]
	grep -qx '110 instead' drivers/foo/new.c
	made=$(git -C build/linux rev-parse HEAD)
	rm -rf build/linux
	scripts/tree.sh
	[ "$(git -C build/linux rev-parse HEAD)" = "$made" ]
}

@test "series renders the same bytes every time, and git am gives the same tree" {
	scripts/series.sh
	cp -r build/series "$BATS_TEST_TMPDIR/first"
	rm -rf build/linux
	scripts/series.sh
	diff -r build/series "$BATS_TEST_TMPDIR/first"
	grep -q '^Subject: \[PATCH 0/3\] foo: a title' build/series/0000-cover-letter.mail
	grep -q '^Subject: \[PATCH 2/3\] foo: two' build/series/0002-foo-two.patch
	git -C build/linux worktree add -q --detach "$BATS_TEST_TMPDIR/am" base
	git -C "$BATS_TEST_TMPDIR/am" am -q "$PWD"/build/series/*.patch
	[ "$(git -C "$BATS_TEST_TMPDIR/am" rev-parse 'HEAD^{tree}')" = "$(git -C build/linux rev-parse 'series^{tree}')" ]
}

@test "a base whose lines moved gives the same mails" {
	cp -a "$LINUX" "$BATS_TEST_TMPDIR/moved"
	sed -i '1i zero' "$BATS_TEST_TMPDIR/moved/drivers/foo/core.c"
	cp -r series "$BATS_TEST_TMPDIR/series"
	LINUX=$BATS_TEST_TMPDIR/moved scripts/tree.sh
	scripts/refresh.sh
	diff -r series "$BATS_TEST_TMPDIR/series"
}

@test "a user's git tree is used at its HEAD and left untouched" {
	cp -a "$LINUX" "$BATS_TEST_TMPDIR/user"
	cd "$BATS_TEST_TMPDIR/user"
	git init -q && git add -A && git commit -q -m base
	echo uncommitted >> Makefile
	git status --porcelain > ../before; find . | sort >> ../before
	cd ../project
	LINUX=$BATS_TEST_TMPDIR/user run scripts/tree.sh
	[ "$status" -eq 0 ]
	[[ $output == *"not used"* ]]
	run ! grep -q uncommitted build/linux/Makefile
	cd "$BATS_TEST_TMPDIR/user"
	{ git status --porcelain; find . | sort; } | diff ../before -
}

@test "an unpacked tree is left untouched, its build products are not taken" {
	[ -e "$LINUX/left-over.o" ]
	[ ! -e build/linux/left-over.o ]
	[ ! -e "$LINUX/.git" ]
}

@test "refused: a hunk that does not apply" {
	sed -i 's/^-5$/-6/' series/0001-foo-one.patch
	refused series/0001-foo-one.patch "does not apply"
}

@test "refused: a hunk that would need fuzz" {
	sed -i 's/^ 4$/ 4 but for the context/' series/0001-foo-one.patch
	refused series/0001-foo-one.patch drivers/foo/core.c
}

@test "refused: a file that two mails claim" {
	sed -i 's|^Adds: tools/run.sh|&\nAdds: drivers/foo/new.c|' series/0002-foo-two.patch
	refused series/0002-foo-two.patch drivers/foo/new.c series/0001-foo-one.patch
}

@test "refused: a file that no mail claims" {
	touch drivers/foo/stray.c
	refused drivers/foo/stray.c
}

@test "refused: a claim without a file" {
	rm tools/run.sh
	refused series/0002-foo-two.patch tools/run.sh
}

@test "refused: a new file inside a diff" {
	printf 'diff --git a/tools/x b/tools/x\nnew file mode 100644\n--- /dev/null\n+++ b/tools/x\n@@ -0,0 +1 @@\n+x\n' \
		>> series/0003-foo-three.patch
	refused series/0003-foo-three.patch tools/x
}

@test "refused: a claimed path that the base has" {
	sed -i 's|^Adds: tools/run.sh|&\nAdds: drivers/foo/core.c|' series/0002-foo-two.patch
	cp build/linux/drivers/foo/core.c drivers/foo/
	refused series/0002-foo-two.patch drivers/foo/core.c "exists in the base"
}

@test "refused: a new file whose text the later mails do not lead to" {
	sed -i 's/^103 grown$/103 edited by hand/' drivers/foo/new.c
	refused series/0002-foo-two.patch drivers/foo/new.c
}

@test "refused: a hunk of a new file before or in the mail that brings it" {
	sed -i '/^Adds: drivers/d' series/0001-foo-one.patch
	sed -i 's|^Adds: tools/run.sh|&\nAdds: drivers/foo/new.c|' series/0002-foo-two.patch
	refused series/0002-foo-two.patch drivers/foo/new.c
}

@test "refused: a mail without its separator" {
	sed -i '/^---$/d' series/0001-foo-one.patch
	refused series/0001-foo-one.patch
}

@test "refused: a path that is no kernel tree" {
	LINUX=$BATS_TEST_TMPDIR run scripts/tree.sh
	[ "$status" -ne 0 ]
	[[ $output == *"not a Linux source tree"* ]]
}

@test "work in build/linux is never thrown away" {
	echo mine >> build/linux/drivers/foo/core.c
	echo 122 >> drivers/foo/new.c
	run scripts/tree.sh
	[ "$status" -ne 0 ]
	[[ $output == *"make refresh"* ]]
	git -C build/linux commit -q -a -m 'foo: four'
	run scripts/tree.sh
	[ "$status" -ne 0 ]
	[[ $output == *"foo: four"* ]]
	cp -a "$LINUX" "$BATS_TEST_TMPDIR/other"
	LINUX=$BATS_TEST_TMPDIR/other run scripts/tree.sh
	[ "$status" -ne 0 ]
	grep -qx mine build/linux/drivers/foo/core.c
}

@test "refresh refuses to undo a change of series/ that build/linux has not seen" {
	sed -i 's/Because/Because of this/' series/0002-foo-two.patch
	run scripts/refresh.sh
	[ "$status" -ne 0 ]
	grep -q 'Because of this' series/0002-foo-two.patch
}
