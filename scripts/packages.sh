#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Install what is missing on a Debian machine.  Asks nothing, and does nothing
# where everything is there.
#
# packages.sh compilers: those of scripts/check-configs.sh, which nothing else
# needs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# A command or a file, and the package that brings it.
needs="
awk			mawk
bats			bats
bc			bc
bison			bison
busybox			busybox-static
ccache			ccache
codespell		codespell
cpio			cpio
dpkg-source		dpkg-dev
flex			flex
gcc			gcc
git			git
ld			binutils
make			make
perl			perl
pgrep			procps
python3			python3
/usr/lib/python3/dist-packages/ply	python3-ply
/usr/lib/python3/dist-packages/git	python3-git
qemu-system-x86_64	qemu-system-x86
shellcheck		shellcheck
xz			xz-utils
/usr/include/gelf.h		libelf-dev
/usr/include/openssl/ssl.h	libssl-dev
/usr/include/stdio.h		libc6-dev
/usr/include/uuid/uuid.h	uuid-dev
"

compilers="
aarch64-linux-gnu-gcc	gcc-aarch64-linux-gnu
clang-19		clang-19
s390x-linux-gnu-gcc	gcc-s390x-linux-gnu
"
case ${1:-} in
"")		;;
compilers)	needs=$compilers ;;
*)		die "no set of packages \"$1\": there is compilers" ;;
esac

missing=()
while read -r probe package; do
	[ -n "$probe" ] || continue
	case $probe in
	/*)	[ -e "$probe" ] || missing+=("$package") ;;
	*)	command -v "$probe" > /dev/null || missing+=("$package") ;;
	esac
done <<< "$needs"
# The guest has no libraries: its busybox must be the static one.
if command -v busybox > /dev/null &&
   [[ $(ldd "$(command -v busybox)" 2>&1 || true) != *@(not a dynamic|statically linked)* ]]; then
	missing+=(busybox-static)
fi
[ "${#missing[@]}" -gt 0 ] || exit 0

command -v apt-get > /dev/null ||
	die "this is not a Debian system; install what brings these, then try again: ${missing[*]}"
root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo > /dev/null || ! sudo -n true 2> /dev/null; then
		die "no right to install packages; run: sudo apt-get install ${missing[*]}"
	fi
	root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
with_progress "refreshing the package lists" "$BUILD/log/apt-update.log" \
	"${root[@]}" apt-get update
with_progress "installing: ${missing[*]}" "$BUILD/log/apt-install.log" \
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y --no-install-recommends "${missing[@]}"
