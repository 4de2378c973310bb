#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Install what is missing on a Debian machine.  Asks nothing, and does nothing
# where everything is there.
#
# packages.sh compilers: those of scripts/check-commits.sh, which nothing else
# needs.  packages.sh arm64: those of the arm64 kernel and its tests.  packages.sh coverage:
# those of scripts/coverage.sh.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

case ${1:-} in
"")		packages=(
			# to build a kernel and its tests
			bc bison ccache cpio dpkg-dev flex gcc git kmod libc6-dev libelf-dev
			libssl-dev make perl python3 rsync uuid-dev xz-utils
			# to boot it
			busybox-static mount qemu-system-x86 util-linux
			# to check scripts and mails
			bats codespell procps python3-git python3-ply shellcheck
			# to build the documentation
			python3-sphinx python3-yaml
		) ;;
arm64)		packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross) ;;
# With the libc as well, or what can be configured would change when it comes.
compilers)	packages=(clang-19 gcc-aarch64-linux-gnu gcc-s390x-linux-gnu libc6-dev-arm64-cross) ;;
coverage)	packages=(diff-cover gcovr) ;;
*)		die "no set of packages \"$1\": there are compilers, arm64 and coverage" ;;
esac

command -v dpkg-query > /dev/null || {
	say "this is not a Debian system: it is up to you to have what brings these: ${packages[*]}"
	exit 0
}
# Checks run side by side.
mkdir -p "$BUILD"
exec 9> "$BUILD/packages.lock"
flock 9
# shellcheck disable=SC2016 # dpkg's own variables
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
mapfile -t missing < <(printf '%s\n' "${packages[@]}" | grep -vxF "$installed" || true)
[ "${#missing[@]}" -gt 0 ] || exit 0

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
