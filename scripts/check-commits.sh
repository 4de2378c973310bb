#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# check-commits.sh [--each] [NAME...]: walk the commits of the series.  Each commit
# must build, must not bring a warning of the compiler (W=1), sparse or kernel-doc,
# and its kselftests must build.
#
# Each commit is built for x86-64 with every driver of vfio, and the last one also
# in other configurations of the table below.  With --each all commits are built in
# all of them, which takes hours, or in those named.  A NAME alone is for whoever adds
# a configuration: nothing else is looked at, and only x86 is built at each commit.
#
# What is built is drivers/vfio/, the sample, and any other object that the series
# touches, with W=1.  That misses a symbol that is not exported, which is what "fast" is
# for: the whole kernel that the lab boots, and modpost, without W=1.  A commit
# that touches no kernel source has nothing to build but its kselftests.
#
# Warnings are compared without line numbers, object by object, with those of
# the commit before.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

# Name, ARCH, compiler, fragments in scripts/config/matrix/.  The longest first,
# so that none is left to run alone.  Of a fragment, NAME.base.config is what only
# the base can have, and NAME.series.config what it cannot have.
table="
fast		x86	gcc			-
clang		x86	clang-19		common p2pdma variants samples x86
x86		x86	gcc			common p2pdma variants x86
arm64		arm64	aarch64-linux-gnu-gcc	common p2pdma variants arm64
s390		s390	s390x-linux-gnu-gcc	common p2pdma s390
no-dmabuf	x86	gcc			common p2pdma no-dmabuf
no-p2pdma	x86	gcc			common p2pdma no-p2pdma
no-zone-device	x86	gcc			common no-zone-device
i386		i386	gcc			common i386
i386-pae	i386	gcc			common i386 i386-pae
"

# They differ little from no-zone-device and i386-pae: with --each, or by name.
rare=" no-p2pdma i386 "

# Sources below drivers/vfio/pci/ that none of them can build, each with the
# reason.
unbuilt="
"

walk=$BUILD/walk
src=$walk/linux
# Number of the last commit that touches the kernel.
last=${LAB_LAST:-}
log=$BUILD/log/commits

# What the series and commit $1 change of the kernel.
touched()
{
	kgit diff-tree -r --no-commit-id --name-only --no-renames "$1" -- \
		':!tools' ':!Documentation' ':!MAINTAINERS' ':!scripts'
}

# Of what a build printed, "OBJECT<TAB>WARNING" for each warning, and "OBJECT"
# for each object, with or without one.
by_object()
{
	sed -E -e "s|$src/||g" -e 's|(\.\./)+linux/||g' \
		-e 's/^([^ :]+):[0-9]+(:[0-9]+)?:/\1:/' \
		-e 's/^([Ww]arning: [^ :]+):[0-9]+ /\1: /' \
		-e 's/\+0x[0-9a-f]+//g' "$1" |
		awk -v OFS='\t' '
		/^  [A-Z0-9_]+ (\[[MU]\])? *[^ ]+$/ { object = $NF; print object }
		/([Ww]arning|WARNING|[Ee]rror|ERROR): / { print object, $0 }'
}

# Bring file $1, the warnings of all objects as they are built now, up to date
# with what a build printed to file $2.
remember()
{
	by_object "$2" > "$2.objects"
	awk -F'\t' 'FILENAME == ARGV[1] { built[$1]; if (NF > 1) print; next }
		!($1 in built)' "$2.objects" "$1" | sort > "$1.new"
	mv "$1.new" "$1"
	rm "$2"
}

# make would build any object that it is given by name.  Whether the configuration
# has object $1 is for the Makefile beside it to say.
has_object()
{
	local dir file

	dir=$(dirname "$1")
	case $dir in
	"arch/${arch/i386/x86}"/*)	;;
	arch/*)				return 1 ;;
	esac
	for file in Kbuild Makefile; do
		[ -e "$src/$dir/$file" ] || continue
		# shellcheck disable=SC2016 # make's own variables
		printf '%s\n' "include $out/.config" "srctree := $src" "src := $src/$dir" "obj := $dir" \
			"include $src/$dir/$file" \
			'.DEFAULT_GOAL := lab' \
			'lab: ; @: $(info $(foreach o,$(obj-y) $(obj-m),$o $($(o:.o=-y)) $($(o:.o=-objs))))' |
			env -u MAKEFLAGS make -s -f - lab 2> /dev/null | tr ' ' '\n' |
			grep -xF "${1##*/}" > /dev/null
		return
	done
}

# Objects are not linked here, so look for what no linker could find: functions
# of vfio that are not built, and 64-bit divisions that need libgcc.
unresolved()
{
	(
		cd "$out"
		find drivers/vfio -name '*.o' -exec "${cross}nm" -P -A {} + 2> /dev/null
	) | awk '
		$3 == "U" { sub(/:$/, "", $1); user[$2] = $1; next }
		{ defined[$2] }
		END {
			for (name in user)
				if (!(name in defined) && name ~ /^(vfio_|__u?(div|mod|divmod)[dt]i[34]$)/)
					print "error: nothing defines " name ", used by " user[name]
		}' | sort
}

# One configuration at the commit that is checked out: base, commit or head.
one()
{
	local name=$1 step=$2 arch compiler words fragment object cross='' rc=0
	local fragments=() elsewhere=() targets=()

	read -r name arch compiler words < <(awk -v name="$name" '$1 == name' <<< "$table")
	out=$walk/config-$name
	if [ "$name" = fast ]; then
		# Where stock.sh has built the base already.
		out=$walk/fast words=
		mapfile -t fragments < <(kernel_fragments fast)
		[ "$step" = base ] || fragments+=("$LAB/scripts/config/fast.series.config")
	fi
	for fragment in $words; do
		fragment=$LAB/scripts/config/matrix/$fragment
		fragments+=("$fragment.config")
		if [ "$step" = base ]; then
			if [ -e "$fragment.base.config" ]; then fragments+=("$fragment.base.config"); fi
		elif [ -e "$fragment.series.config" ]; then
			fragments+=("$fragment.series.config")
		fi
	done
	mkdir -p "$out"
	[ "$compiler" = "${compiler%-gcc}" ] || cross=${compiler%gcc}

	kmake()
	{
		make -C "$src" O="$out" --no-print-directory -Otarget ARCH="$arch" \
			CROSS_COMPILE="$cross" CC="ccache $compiler" HOSTCC="ccache gcc" "$@"
	}

	if [ "$step" = head ]; then
		configured "$name" "$out" "${fragments[@]}"
		return
	fi

	# An interrupted build has printed what its objects will not print again.
	touch "$out/.lab-output" "$out/.lab-warnings"
	remember "$out/.lab-warnings" "$out/.lab-output"

	if [ "$step" = base ] || [ "$step" = "$last" ] || grep -q 'Kconfig[^/]*$' "$log/touched"; then
		# The commit, or one before it, may have brought an option that is asked for.
		rm -f "$out/.lab-config"
		configure "configs-$name" "$src" "$out" "${fragments[@]}"
	fi
	if [ "$step" = base ]; then
		configured "$name" "$out" "${fragments[@]}"
		# So that all of their warnings are seen.
		[ "$name" = fast ] || rm -rf "${out:?}/drivers/vfio"
	fi

	: > "$out/.lab-output"
	if [ "$name" = fast ]; then
		rm -f "$out/.lab-tree"
		targets=(bzImage modules)
	else
		while read -r object; do
			if [ "$step" = base ]; then rm -f "${out:?}/$object"; fi
			if [ -e "$src/${object%.o}.c" ] && has_object "$object"; then elsewhere+=("$object"); fi
		done < "$log/elsewhere"
		targets=(W=1 drivers/vfio/ "${elsewhere[@]}")
		[ "$name" != x86 ] || targets+=(C=1 "CHECK=$SPARSE")
		if [[ $words == *samples* && -d $src/samples/vfio-dmabuf ]]; then
			targets+=(samples/vfio-dmabuf/)
		fi
	fi

	cp "$out/.lab-warnings" "$log/$name.before"
	TIMEFORMAT='%U %S'
	{ time kmake -k "${targets[@]}" 2>&1 | tee -a "$out/.lab-output" || rc=$?; } 2> "$log/$name.$step.time"
	if [ "$name" != fast ]; then
		{ echo "  NM      unresolved"; unresolved; } >> "$out/.lab-output"
	fi
	cp "$out/.lab-output" "$log/$name.$step.log"
	remember "$out/.lab-warnings" "$out/.lab-output"
	comm -13 "$log/$name.before" "$out/.lab-warnings" | cut -f 2- > "$log/$name.new"
	grep -E '^  CC( \[M\] +[^ /]+/.*\.o| +[^ /]+/.*\.o| \[U\] +samples/.*)$' "$log/$name.$step.log" |
		grep -cvE ' (scripts|tools)/' > "$log/$name.count" || true
	echo "$rc" > "$log/$name.rc"
	echo "$name: $(cat "$log/$name.count") objects"
}

if [ "${1:-}" = --one ]; then
	one "$2" "$3"
	exit
fi

# All configurations at the commit that is checked out.  make shares its jobs
# among them.
all()
{
	local step=$1 what=$2 name

	for name in "${names[@]}"; do
		rm -f "$log/$name".{rc,new,count}
	done
	{
		echo ".PHONY: ${names[*]}"
		echo "${names[*]}:"
		printf '\t+-@%s --one $@ %s 2> %s\n' \
			"$LAB/scripts/check-commits.sh" "$step" "$log/\$@.$step.err"
	} > "$log/make"
	with_progress "$what" "$log/$step.log" \
		env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -k -j"$JOBS" -f "$log/make" "${names[@]}"
}

# The result of configuration $1 as a line of TAP: "not ok" $3 if it did not
# build, and at a commit also for a new warning.
verdict()
{
	local name=$1 step=$2 what=$3 count

	cpu[$name]=$(awk -v sum="${cpu[$name]:-0}" '{ sum += $1 + $2 } END { printf "%.1f", sum }' \
		"$log/$name.$step.time" 2> /dev/null || echo 0)
	if [ ! -e "$log/$name.rc" ]; then
		bad "$name can be configured: $what" "$log/$name.$step.err"
	elif [ "$(cat "$log/$name.rc")" -ne 0 ]; then
		grep -E '(error|ERROR|undefined|\*\*\*)' "$log/$name.$step.log" > "$log/$name.errors" || true
		bad "$name builds: $what" "$log/$name.errors"
	elif [ "$step" != base ] && [ -s "$log/$name.new" ]; then
		bad "$name has no new warnings: $what" "$log/$name.new"
	else
		count=$(cat "$log/$name.count" 2> /dev/null || echo 0)
		# A commit with nothing to look at has not passed anything.
		[ "$count" -ne 0 ] || return 0
		echo "ok - $name, $count objects: $what"
	fi
}

bad()
{
	failed=1
	echo "not ok - $1"
	tail -n 20 "$2" | sed 's/^/# /'
}

# Nobody has to remember to add a new driver to the table.
coverage()
{
	local file name dir missing by
	{
		kgit ls-tree -r --name-only series -- drivers/vfio/pci/ | grep '\.c$'
		grep '\.c$' "$log/all"
	} | sort -u | while read -r file; do
		kgit cat-file -e "series:$file" 2> /dev/null || continue
		for name in "${names[@]}"; do
			# A sample is a program.
			if [ -e "$walk/config-$name/${file%.c}.o" ] || [ -e "$walk/$name/${file%.c}.o" ] ||
			   [ -e "$walk/config-$name/${file%.c}" ] || [ -e "$walk/$name/${file%.c}" ]; then
				printf '%s\t%s\t%s\n' "$(dirname "$file")" "$file" "$name"
			fi
		done | grep . || printf '%s\t%s\t\n' "$(dirname "$file")" "$file"
	done > "$log/coverage"
	while read -r dir; do
		mapfile -t missing < <(awk -F'\t' -v dir="$dir" '$1 == dir && $3 == "" { print $2 }' "$log/coverage")
		by=$(awk -F'\t' -v dir="$dir" '$1 == dir && $3 != "" && !seen[$3]++ { printf " %s", $3 }' "$log/coverage")
		: > "$log/missing"
		for file in "${missing[@]}"; do
			grep -q "^$file	" <<< "$unbuilt" || echo "$file: in no configuration" >> "$log/missing"
		done
		if [ -s "$log/missing" ]; then
			bad "all of $dir is built" "$log/missing"
		else
			echo "ok - all of $dir is built, by$by"
		fi
	done < <(cut -f 1 "$log/coverage" | sort -u)
}

mapfile -t names < <(awk 'NF { print $1 }' <<< "$table")
everything=1 each=(x86)
if [ "${1:-}" = --each ]; then
	shift
	each=("$@")
	[ $# -gt 0 ] || each=("${names[@]}")
elif [ $# -eq 0 ]; then
	mapfile -t names < <(printf '%s\n' "${names[@]}" | grep -vxF "${rare// /$'\n'}")
fi
if [ $# -gt 0 ]; then
	for name in "$@"; do
		grep -q "^$name	" <<< "$table" || die "there is no configuration \"$name\": there are ${names[*]}"
	done
	names=("$@") everything=
fi
"$LAB/scripts/packages.sh" compilers
need_disk 6
mkdir -p "$log" "$walk"
rm -f "$log"/*
list=$(kgit rev-list --reverse base..series)
mapfile -t commits <<< "$list"
[ -n "$list" ] || die "there is no commit between base and series: run \"make tree\" first"
for commit in "${commits[@]}"; do
	touched "$commit"
done | sort -u > "$log/all"
sed -n -e '/^drivers\/vfio\//d' -e 's/\.c$/.o/p' "$log/all" > "$log/elsewhere"
failed=0
declare -A cpu
SPARSE=
[[ " ${names[*]} " != *" x86 "* ]] || SPARSE=$("$LAB/scripts/sparse.sh")
export SPARSE

# The warnings of kernel-doc about files $2..., at the commit that is checked out,
# into $1.
docs()
{
	local to=$1 file rc
	shift
	for file in "$@"; do
		[ -e "$src/$file" ] || continue
		rc=0
		(cd "$src" && scripts/kernel-doc -none -Wall "$file") > "$log/docs" 2>&1 || rc=$?
		sed -E 's|:[0-9]+ |: |' "$log/docs" | grep -iE 'warning|error' || [ "$rc" -eq 0 ] ||
			echo "error: kernel-doc ended with status $rc"
	done | sort > "$to"
}

check_docs()
{
	local commit=$1 subject=$2 files

	mapfile -t files < <(kgit diff-tree -r --no-commit-id --name-only "$commit" -- '*.c' '*.h')
	[ "${#files[@]}" -gt 0 ] || return 0
	"$LAB/scripts/walk.sh" "$commit^"
	docs "$log/docs.before" "${files[@]}"
	"$LAB/scripts/walk.sh" "$commit"
	docs "$log/docs.after" "${files[@]}"
	comm -13 "$log/docs.before" "$log/docs.after" > "$log/docs.new"
	if [ -s "$log/docs.new" ]; then
		bad "no new warnings of kernel-doc: $subject" "$log/docs.new"
	else
		echo "ok - no new warnings of kernel-doc, ${#files[@]} files: $subject"
	fi
}

# Their objects of an earlier walk depend on headers that are not there yet.
rm -rf "$walk/kselftest"
check_selftests()
{
	local commit=$1 subject=$2 objects=$walk/kselftest

	[ -n "$(kgit diff-tree -r --no-commit-id --name-only "$commit" -- \
		tools/testing/selftests include/uapi)" ] || return 0
	mkdir -p "$objects"
	if {
		make -C "$src" O="$objects" headers &&
		make -C "$src/tools/testing/selftests" O="$objects" TARGETS=vfio FORCE_TARGETS=1 \
			KHDR_INCLUDES="-isystem $objects/usr/include" CC=gcc LDFLAGS=-static -j"$JOBS"
	} > "$log/selftests.log" 2>&1; then
		echo "ok - kselftests build: $subject"
	else
		grep -E '([Ee]rror|undefined|\*\*\*)' "$log/selftests.log" > "$log/selftests.errors" || true
		bad "kselftests build: $subject" "$log/selftests.errors"
	fi
}

[[ " ${names[*]} " != *" fast "* ]] || "$LAB/scripts/stock.sh"
"$LAB/scripts/walk.sh" base
all base "building ${#names[@]} configurations of the base"
works=()
for name in "${names[@]}"; do
	verdict "$name" base "the base"
	if [ "$(cat "$log/$name.rc" 2> /dev/null)" = 0 ]; then works+=("$name"); fi
done
# There is nothing to compare the others with.
names=("${works[@]}")

n=0
for commit in "${commits[@]}"; do
	n=$((n + 1))
	[ -z "$(touched "$commit")" ] || last=$n
done
export LAB_LAST=$last
everywhere=("${names[@]}")

n=0
for commit in "${commits[@]}"; do
	n=$((n + 1))
	names=()
	for name in "${everywhere[@]}"; do
		if [ "$n" = "$last" ] || [[ " ${each[*]} " == *" $name "* ]]; then
			names+=("$name")
		fi
	done
	[ -n "$everything" ] || [ "${#names[@]}" -gt 0 ] || continue
	subject=$(kgit show -s --format=%s "$commit")
	[ -z "$everything" ] || check_docs "$commit" "$subject"
	"$LAB/scripts/walk.sh" "$commit"
	touched "$commit" > "$log/touched"
	if [ -s "$log/touched" ] && [ "${#names[@]}" -gt 0 ]; then
		all "$n" "$n/${#commits[@]} $subject"
		for name in "${names[@]}"; do
			verdict "$name" "$n" "$subject"
		done
	fi
	[ -z "$everything" ] || check_selftests "$commit" "$subject"
done

names=("${everywhere[@]}")

# What was asked for must be there in the end, too.
all head "looking at the configurations of the series"
for name in "${names[@]}"; do
	if [ -s "$log/$name.head.err" ]; then
		bad "$name can be configured: the series" "$log/$name.head.err"
	fi
done

[ -z "$everything" ] || coverage
for name in "${names[@]}"; do
	echo "# $name: ${cpu[$name]} s of CPU time"
done
[ "$failed" -eq 0 ]
