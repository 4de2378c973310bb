#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Print the path of a QEMU whose emulated CPUs can run side by side.  A QEMU can
# lose what a CPU writes to a register while the BARs that are there change: a timer
# interrupt of the APIC that never ends, or never comes.  The registers of an x2APIC
# are no memory, so nothing of this can happen to them, and from version 9 on QEMU
# emulates one.  QEMU=, then the system's, then Debian's newest backport, unpacked
# into build/qemu; the system stays as it is.
#
# 10.0.2 still loses writes to the IOMMU, seen where the NVMe device is reset: the
# kernel waits for the queued invalidation for ever ("qi_submit_sync" in what RCU says
# of the stall), and "-d invalid_mem" shows the write to register 0x88 at another
# region.  So CPUs run at once where that is what is tested, without the NVMe device,
# and take turns elsewhere.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
. "$LAB/scripts/debian.sh"

emulates_x2apic()
{
	"$1" --version > /dev/null 2>&1 &&
		timeout --kill-after=2 20 "$1" -M q35 -accel tcg -cpu max,+x2apic,enforce -nodefaults \
			-display none -S -monitor stdio <<< quit > /dev/null 2>&1
}

if [ -n "${QEMU:-}" ]; then
	emulates_x2apic "$QEMU" ||
		die "QEMU=$QEMU has no x2APIC under TCG, so its CPUs cannot run side by side: give QEMU 9 or newer, or none, and the lab fetches one"
	command -v "$QEMU"
	exit
fi
if emulates_x2apic qemu-system-x86_64; then
	command -v qemu-system-x86_64
	exit
fi

qemu=$BUILD/qemu
if [ ! -x "$qemu/qemu-system-x86_64" ]; then
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ -n "$codename" ] || die "/etc/os-release does not name this Debian: install QEMU 9 or newer"
	# Its libraries are the system's, so it is the backport to that very system.
	SUITES=("$codename" "$codename-backports")
	FETCH=$BUILD/qemu-fetch
	debian_lists "looking for a newer QEMU in Debian"
	rm -rf "$qemu" "$qemu.new"
	mkdir -p "$qemu.new/packages"
	(
		cd "$qemu.new/packages"
		packages=()
		for package in qemu-system-{x86,common,data} seabios; do
			packages+=("$package/$codename-backports")
		done
		with_progress "fetching ${packages[*]}" "$BUILD/log/qemu-fetch.log" \
			private_apt apt-get download "${packages[@]}"
		for package in *.deb; do
			dpkg-deb -x "$package" "$qemu.new"
		done
	)
	rm -rf "$qemu.new/packages"
	modules=usr/lib/$(gcc -print-multiarch)/qemu
	# It loads modules from where it is installed, wherever it lies, and aborts
	# on those of another version: for this process its own are there.
	cat > "$qemu.new/qemu-system-x86_64" <<-EOF
		#!/bin/sh
		run="exec $qemu/usr/bin/qemu-system-x86_64 -L $qemu/usr/share/qemu -L $qemu/usr/share/seabios"
		[ -d /$modules ] || exec sh -c "\$run"' "\$@"' sh "\$@"
		user=
		[ "\$(id -u)" -eq 0 ] || user='--user --map-root-user'
		exec unshare \$user --mount sh -c \\
			"mount --bind $qemu/$modules /$modules && \$run"' "\$@"' sh "\$@"
	EOF
	chmod +x "$qemu.new/qemu-system-x86_64"
	mv "$qemu.new" "$qemu"
fi
emulates_x2apic "$qemu/qemu-system-x86_64" ||
	die "$qemu/qemu-system-x86_64 does not run here, or has no x2APIC under TCG: try it by hand, or give QEMU="
echo "$qemu/qemu-system-x86_64"
