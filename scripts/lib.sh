# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What every script of the lab shares: where things are and how they speak.

LAB=${LAB_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)}
BUILD=$LAB/build
# Another work tree of the same kernel, for those who walk through its commits.
TREE=${LAB_TREE:-$BUILD/linux}
# Tops of the kernel tree in which the series may have whole files of its own.
# shellcheck disable=SC2034 # read by the scripts that source this file
ROOTS=(Documentation drivers include samples tools)

# The answer of git and sort must not depend on who asks.
export LC_ALL=C.UTF-8 TZ=UTC
# What packages.sh installed comes before other versions of it.
export PATH=/usr/bin:/bin:$PATH
# Nothing fails without a word.
set -o errtrace
trap 'printf "%s: line %d: failed: %s\n" "${0##*/}" "$LINENO" "$BASH_COMMAND" >&2' ERR

JOBS=${JOBS:-$(nproc)}
export JOBS

say()
{
	printf '%s\n' "--- $*" >&2
}

die()
{
	printf '%s\n' "${0##*/}: $*" >&2
	exit 1
}

# The user's own git settings (hooks, signing, diff algorithms, line ends) must
# not change the bytes of the series.  A user's own tree is read with the
# user's settings, for safe.directory's sake: that is plain "git".
kgit()
{
	GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null \
		git -C "$TREE" -c core.hooksPath=/dev/null -c gc.auto=0 "$@"
}

# One value for what lies in the work tree of kernel $1, committed or not.
tree_id()
{
	local index id

	index=$(mktemp)
	# With its time, by which git knows what was written too late to be trusted.
	cp -p "$(git -C "$1" rev-parse --path-format=absolute --git-path index)" "$index"
	# A hard link, as copies of the tree are made of, changes the ctime of a file.
	id=$(GIT_INDEX_FILE=$index git -C "$1" -c core.hooksPath=/dev/null -c core.trustctime=false add -A &&
	     GIT_INDEX_FILE=$index git -C "$1" write-tree)
	rm -f "$index"
	echo "$id"
}

# Is what lies in $1 a build of the tree $2, and, for a kernel, with the options $3?
is_built()
{
	[ "$(cat "$1/.lab-tree" 2> /dev/null)" = "$2" ] &&
		{ [ $# -lt 3 ] || [ "$(cat "$1/.lab-config" 2> /dev/null)" = "$3" ]; }
}

# Of the machine that a kernel of flavour $1 is for: its name, its image, where its tests
# are, its compilers' prefix, and what make is to be told.
# shellcheck disable=SC2034 # read by the scripts that source this file
machine_of()
{
	case $1 in
	arm64)	machine=aarch64 image=arch/arm64/boot/Image tests=$BUILD/kselftest-arm64
		cross=aarch64-linux-gnu- target=(ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-) ;;
	*)	machine=x86_64 image=arch/x86/boot/bzImage tests=$BUILD/kselftest
		cross='' target=() ;;
	esac
}

# Copy what boots of the kernel in $1 to $2.
copy_bootable()
{
	rm -rf "$2"
	mkdir -p "$2/arch/x86/boot" "$2/usr"
	cp "$1/arch/x86/boot/bzImage" "$2/arch/x86/boot"
	cp "$1/usr/gen_init_cpio" "$2/usr"
	cp -r "$1"/{.config,.lab-config,.lab-tree,root} "$2"
}

# Run a long command, log to $2 and show a line with $1 every 20 seconds.
with_progress()
{
	local what=$1 log=$2 pid start=$SECONDS shown=$SECONDS rc=0
	shift 2

	mkdir -p "$(dirname "$log")"
	say "$what (log: ${log#"$LAB"/})"
	"$@" > "$log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2> /dev/null; do
		sleep 0.3
		if [ $((SECONDS - shown)) -ge 20 ]; then
			shown=$SECONDS
			printf '    %4d s, %5d lines: %.70s\n' $((SECONDS - start)) \
				"$(wc -l < "$log")" "$(tail -n 1 "$log")" >&2
		fi
	done
	wait "$pid" || rc=$?
	if [ "$rc" -ne 0 ]; then
		# What went wrong first, not the compiler's command lines around it.
		{ grep -nE -m 8 '(\b[Ee]rror\b|ERROR|\*\*\*|not found|undefined|^E: )' "$log" ||
			tail -n 8 "$log"; } | cut -c1-200 >&2
		die "$what failed; the whole log is $log"
	fi
}

need_disk()
{
	local need=$1 have

	mkdir -p "$BUILD"
	have=$(df --output=avail -BG "$BUILD" | tail -n 1 | tr -dc 0-9)
	[ "$have" -ge "$need" ] ||
		die "$BUILD has $have GB free, this step needs $need GB: free some or move the clone"
}
