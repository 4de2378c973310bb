#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Print the place where programs and libraries for arm64 are that a cross compiler
# does not bring: busybox and libuuid, as Debian has them, unpacked into build/arm64-root.
# The system does not learn of another architecture.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
. "$LAB/scripts/debian.sh"

root=$BUILD/arm64-root
if [ ! -d "$root" ]; then
	SUITES=("$(. /etc/os-release && echo "${VERSION_CODENAME:-}")")
	FETCH=$BUILD/arm64-fetch
	APT_OPTIONS=(-o APT::Architecture=arm64 -o APT::Architectures=arm64)
	debian_lists "looking for programs for arm64 in Debian"
	debian_unpack "$root.new" busybox-static uuid-dev
	mv "$root.new" "$root"
fi
echo "$root"
