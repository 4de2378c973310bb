#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What CONTRIBUTING.md tells a newcomer to do must work: run the shell blocks of each
# section, in order, and look for what the text promises.
#
# They run in a copy, which this process and its children see in the place of the
# repository: at the same paths nothing has to be built twice.  Of build/ it has what
# the blocks start from, the tree, the fast kernel and the tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/mails.sh
. "$LAB/scripts/mails.sh"

guide=CONTRIBUTING.md
work=$BUILD/contributing
copy=$work/copy
log=$BUILD/log/contributing

# One value for what the blocks could change by a hard link, or by git
state()
{
	tree_id "$TREE"
	kgit for-each-ref --format='%(refname) %(objectname)' refs/heads/series refs/lab
}

if [ -z "${LAB_CONTRIBUTING:-}" ]; then
	"$LAB/scripts/packages.sh"
	"$LAB/scripts/packages.sh" compilers
	"$LAB/scripts/tree.sh" --keep
	"$LAB/scripts/kernel.sh" fast
	"$LAB/scripts/selftests.sh"
	need_disk 4
	before=$(state)
	rm -rf "$work" "$log"

	user=()
	[ "$(id -u)" -eq 0 ] || user=(--user --map-root-user)
	rc=0
	# Of its processes none is left when it ends, or is made to.
	LAB_CONTRIBUTING=1 unshare "${user[@]}" --mount --pid --fork --kill-child "$0" &
	pid=$!
	trap 'kill -KILL $pid; exit 130' INT TERM HUP
	wait "$pid" || rc=$?
	trap - INT TERM HUP
	if [ "$(state)" = "$before" ]; then
		echo "ok - build/linux is as it was"
	else
		echo "not ok - build/linux is as it was"
		rc=1
	fi
	rm -rf "$work"
	exit "$rc"
fi

# What a developer has, and nothing else of the caller's
unset MAKEFLAGS MAKELEVEL MFLAGS KERNEL PLAN BOOT LAB_CONTRIBUTING
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME="A Newcomer" GIT_AUTHOR_EMAIL=newcomer@example.org
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL

say "copying the repository"
mkdir -p "$copy/build/"{linux,objects,ccache,log/contributing} "$BUILD/ccache" "$log"
find "$LAB" -mindepth 1 -maxdepth 1 ! -name build ! -name .git -exec cp -a -t "$copy" {} +
cp -a --reflink=auto "$BUILD"/{fast,kselftest,kselftest-objects} "$copy/build"
# Hard links, as git replaces what it changes; but not of what the blocks edit, lest one
# of them should write to a file in place.
link_tree()
{
	(cd "$1" && git ls-files -z --cached --others --exclude-standard | cpio -0pdlm --quiet "$2")
}
link_tree "$TREE" "$copy/build/linux"
(
	cd "$TREE"
	{
		git ls-files -z drivers/vfio tools/testing/selftests/vfio
		git diff -z --name-only --diff-filter=d base HEAD
	} | sort -zu | xargs -0 cp -Pp --parents --remove-destination -t "$copy/build/linux"
)
git init -q -b series "$copy/build/linux"
git -C "$copy/build/linux" config core.trustctime false
echo "$BUILD/objects" > "$copy/build/linux/.git/objects/info/alternates"
cp -p "$TREE"/.git/{index,lab-base-id,lab-series-id} "$copy/build/linux/.git"
refs=$(kgit for-each-ref --format='create %(refname) %(objectname)' refs/tags/base refs/lab)
head=$(kgit rev-parse HEAD)
mount -o bind,ro "$TREE/.git/objects" "$copy/build/objects"
mount --bind "$BUILD/ccache" "$copy/build/ccache"
mount --bind "$log" "$copy/build/log/contributing"
mount --rbind "$copy" "$LAB"
cd "$LAB"
kgit update-ref --stdin <<< "$refs"
kgit update-ref refs/heads/series "$head"
# The same for the work tree of check-commits.sh.
kgit worktree add -q --no-checkout --detach "$BUILD/walk/linux" series
link_tree "$TREE" "$BUILD/walk/linux"
cp -p "$TREE/.git/index" "$TREE/.git/worktrees/linux"
[ -z "$(kgit status --porcelain)" ] || die "build/linux has uncommitted changes: commit them first"

failed=0
# test_that WHAT COMMAND...: a line of TAP, with what the command printed where it failed
test_that()
{
	local what=$1
	shift

	if "$@" > "$log/test" 2>&1; then
		echo "ok - $what"
	else
		echo "not ok - $what"
		{ echo "failed: $*"; tail -n 20 "$log/test"; } | sed 's/^/# /'
		failed=1
	fi
}

# The last mail, as it is stored or rendered
stored()
{
	mails | tail -n 1
}

rendered()
{
	find "$BUILD/series" -name '*.patch' | sort | tail -n 1
}

# The boot in directory $1 of build/run was green, and a test passed on device $2.
# shellcheck disable=SC2317 # test_that calls it
green()
{
	python3 - "$BUILD/run/$1/summary.json" "$2" <<-'END'
		import json, sys
		summary = json.load(open(sys.argv[1]))
		rows = [row for row in summary['tests'] if row['program']]
		print(summary['verdict'], rows)
		sys.exit(summary['verdict'] != 'green' or
		         not any(row['device'] == sys.argv[2] and row['passed'] for row in rows))
	END
}

# promised SECTION: what the text says is there once its commands, which printed $out,
# have been run
private=tools/testing/selftests/vfio/vfio_pci_dmabuf_private_test
promised()
{
	case $1 in
	"A mail")
		test_that "there is one mail more" [ "$(mails | wc -l)" -eq $((mails_before + 1)) ]
		test_that "it has the diff" grep -qxF '+++ b/drivers/vfio/group.c' "$(stored)"
		test_that "it is rendered" cmp <(mail_diff "$(stored)" | sed -n '/^@@/,$p') \
			<(mail_diff "$(rendered)" | sed -n '/^@@/,$p') ;;
	"A new file")
		test_that "it is at its path" cmp "$private.c" "$TREE/$private.c"
		test_that "the mail says \"Adds:\"" [ "$(mail_adds "$(stored)")" = "$private.c" ]
		test_that "and the rest in a diff" grep -qxF "+++ b/${private%/*}/Makefile" "$(stored)"
		test_that "all of the tree is stored" scripts/tree-guard.sh ;;
	"A test")
		test_that "it passed" green fast-one edu
		test_that "it is pinned" grep -qxF "    1/1  edu ${private##*/}" scripts/expected/fast
		test_that "no other pin is lost" [ "$(wc -l < scripts/expected/fast)" -eq $((pins_before + 1)) ] ;;
	"A mutant")
		test_that "the test has killed it" grep -q '^ok - killed: private-mapping ' "$out"
		test_that "the tree is whole again" scripts/tree-guard.sh ;;
	"A device")
		test_that "the guest has it" grep -qx 'testdev 0000:[0-9a-f:.]* 1b36:0005' "$BUILD/run/fast-two/devices"
		test_that "a test passed on it" green fast-two testdev
		test_that "boot.sh --help names it" grep -q '^Devices.* testdev' <(scripts/boot.sh --help) ;;
	"A configuration")
		test_that "base and series were built" [ "$(grep -c '^ok - rt, [1-9][0-9]* objects: ' "$out")" -eq 2 ]
		test_that "it has the option" grep -qx CONFIG_PREEMPT_RT=y "$BUILD/walk/config-rt/.config" ;;
	*)	test_that "this script knows what to look for" false ;;
	esac
}

mails_before=$(mails | wc -l)
pins_before=$(wc -l < scripts/expected/fast)
test_that "$guide has at most 120 lines" [ "$(wc -l < "$guide")" -le 120 ]
# The commands of each section, in $log/SECTION.sh
awk -v dir="$log" '
	/^```sh$/ { on = 1; next }
	/^```$/ { on = 0 }
	on { print > (dir "/" name ".sh"); next }
	/^## / { name = substr($0, 4) }' "$guide"
sections=("A mail" "A new file" "A test" "A mutant" "A device" "A configuration")
test_that "$guide has commands for each of ${#sections[@]} sections, in their order" diff \
	<(printf '%s\n' "${sections[@]}") <(sed -n 's/^## //p' "$guide")

for section in "${sections[@]}"; do
	[ "$failed" -eq 0 ] || break
	out=$log/$section.log
	say "$section (log: ${out#"$LAB"/})"
	started=$SECONDS rc=0
	bash -euo pipefail "$log/$section.sh" < /dev/null > "$out" 2>&1 || rc=$?
	if [ "$rc" -eq 0 ]; then
		echo "ok - $section: its commands work ($((SECONDS - started)) s)"
		promised "$section"
	else
		echo "not ok - $section: its commands work"
		tail -n 20 "$out" | sed 's/^/# /'
		failed=1
	fi
done
exit "$failed"
