#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# qemu.sh [FLAVOUR]: print the path of a QEMU for that kernel: QEMU=, then the
# system's, then Debian's newest backport, unpacked into build/qemu; the system stays
# as it is.
#
# Where it is x86 the emulated CPUs must be able to run side by side.  A QEMU can
# lose what a CPU writes to a register while the BARs that are there change: a timer
# interrupt of the APIC that never ends, or never comes.  The registers of an x2APIC
# are no memory, so nothing of this can happen to them, and from version 9 on QEMU
# emulates one.
#
# 10.0.2 still loses writes to the IOMMU, seen where the NVMe device is reset: the
# kernel waits for the queued invalidation for ever ("qi_submit_sync" in what RCU says
# of the stall), and "-d invalid_mem" shows the write to register 0x88 at another
# region.  So CPUs run at once where that is what is tested, without the NVMe device,
# and take turns elsewhere.
#
# For arm64 it is version 9 as well, the first that knows of an unaligned access to
# device memory that it is a fault.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
. "$LAB/scripts/debian.sh"

machine_of "${1:-fast}"
case $machine in
aarch64) lacks="is not version 9 or newer, for arm64" ;;
*)	lacks="has no x2APIC under TCG, so its CPUs cannot run side by side" ;;
esac

# Is $1 a QEMU of that kind?
good()
{
	"$1" --version > /dev/null 2>&1 || return
	if [ "$machine" = aarch64 ]; then
		"$1" --version | grep -E 'version (9|[1-9][0-9])\.' > /dev/null &&
			"$1" -M help | grep '^virt ' > /dev/null
		return
	fi
	timeout --kill-after=2 20 "$1" -M q35 -accel tcg -cpu max,+x2apic,enforce -nodefaults \
		-display none -S -monitor stdio <<< quit > /dev/null 2>&1
}

if [ -n "${QEMU:-}" ]; then
	if good "$QEMU"; then
		command -v "$QEMU"
		exit
	fi
	# It is the one for the other kernels.
	[ "$machine" = aarch64 ] ||
		die "QEMU=$QEMU $lacks: give QEMU 9 or newer, or none, and the lab fetches one"
	say "note: QEMU=$QEMU $lacks, and is not used"
fi
if good "qemu-system-$machine"; then
	command -v "qemu-system-$machine"
	exit
fi

qemu=$BUILD/qemu
mkdir -p "$BUILD"
# Guests start side by side.
exec 9> "$BUILD/qemu.lock"
flock 9
if [ ! -x "$qemu/qemu-system-$machine" ]; then
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	[ -n "$codename" ] || die "/etc/os-release does not name this Debian: install QEMU 9 or newer"
	# Its libraries are the system's, so it is the backport to that very system.
	SUITES=("$codename" "$codename-backports")
	FETCH=$BUILD/qemu-fetch
	debian_lists "looking for a newer QEMU in Debian"
	debian_unpack "$qemu.new" {qemu-system-{x86,arm,common,data},seabios}/"$codename-backports"
	modules=usr/lib/$(gcc -print-multiarch)/qemu
	for binary in qemu-system-{x86_64,aarch64}; do
		# It loads modules from where it is installed, wherever it lies, and aborts
		# on those of another version: for this process its own are there.
		cat > "$qemu.new/$binary" <<-EOF
			#!/bin/sh
			run="exec $qemu/usr/bin/$binary -L $qemu/usr/share/qemu -L $qemu/usr/share/seabios"
			[ -d /$modules ] || exec sh -c "\$run"' "\$@"' sh "\$@"
			user=
			[ "\$(id -u)" -eq 0 ] || user='--user --map-root-user'
			exec unshare \$user --mount sh -c \\
				"mount --bind $qemu/$modules /$modules && \$run"' "\$@"' sh "\$@"
		EOF
		chmod +x "$qemu.new/$binary"
	done
	rm -rf "$qemu"
	mv "$qemu.new" "$qemu"
fi
good "$qemu/qemu-system-$machine" ||
	die "$qemu/qemu-system-$machine does not run here, or $lacks: try it by hand, or give QEMU="
echo "$qemu/qemu-system-$machine"
