# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Configure a kernel from fragments, and check that what they ask for survived.
# Fragments are given in order: a later one overrides an earlier one.

# Paths below build/ are hashed relative to the output directory, so that the
# same file built from another work tree is found again.
export CCACHE_DIR=$BUILD/ccache CCACHE_BASEDIR=$BUILD CCACHE_NOHASHDIR=1
export CCACHE_MAXSIZE=5G CCACHE_SLOPPINESS=time_macros
# The same sources give the same kernel, whoever builds it and when.
export KBUILD_BUILD_TIMESTAMP="2026-01-01" KBUILD_BUILD_USER=lab KBUILD_BUILD_HOST=lab

# The fragments of the kernel that boots, of flavour $1 and of the tree $2; of the
# base, where there is none.  The options that a user of the vfio kselftests needs are
# those of the series, also for the commits before it brings them.
kernel_fragments()
{
	machine_of "$1"
	# shellcheck disable=SC2154 # lib.sh assigns it
	printf '%s\n' "$LAB"/tools/testing/selftests/vfio/config{,."$machine"} \
		"$LAB"/scripts/config/fast{,."$machine"}.config
	[ ! -d "${2:+$2/samples/vfio-dmabuf}" ] || echo "$LAB/scripts/config/fast.series.config"
	case $1 in
	fast|arm64)	;;
	*)		echo "$LAB/scripts/config/$1.config" ;;
	esac
}

# The options that fragments $@ ask for, as NAME=VALUE.
config_wanted()
{
	sed -n -e '/^CONFIG_/p' -e 's/^# \(CONFIG_[A-Z0-9_]*\) is not set$/\1=n/p' "$@" |
		awk -F= '{ value[$1] = $0 } END { for (name in value) print value[name] }' | sort
}

# configure NAME SOURCE OUT FRAGMENT...: kmake is a function of the caller's that
# runs make for SOURCE and OUT.  What did not change keeps its .config.
configure()
{
	local name=$1 source=$2 out=$3 wanted
	shift 3

	wanted=$(config_wanted "$@")
	if [ "$(cat "$out/.lab-config" 2> /dev/null)" != "$wanted" ] || [ ! -e "$out/.config" ]; then
		say "configuring $name"
		rm -f "$out/.lab-config"
		kmake allnoconfig > "$BUILD/log/config-$name.log"
		(
			cd "$out" || exit
			"$source/scripts/kconfig/merge_config.sh" -m .config "$@"
		) >> "$BUILD/log/config-$name.log"
		echo "$wanted" > "$out/.lab-config.new"
	fi
	kmake olddefconfig > "$BUILD/log/olddefconfig-$name.log"
}

# configured NAME OUT FRAGMENT...: dies if OUT lacks an option of the fragments.
configured()
{
	local name=$1 out=$2 option lost=
	shift 2

	while IFS= read -r option; do
		case $option in
		*=n)	if grep -q "^${option%%=*}=" "$out/.config"; then lost+=" $option"; fi ;;
		*)	grep -qxF "$option" "$out/.config" || lost+=" $option" ;;
		esac
	done < <(config_wanted "$@")
	[ -z "$lost" ] ||
		die "the $name kernel cannot have these options, or lacks what they depend on:$lost"
	[ ! -e "$out/.lab-config.new" ] || mv "$out/.lab-config.new" "$out/.lab-config"
}
