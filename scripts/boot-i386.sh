#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# boot-i386.sh [base] [NAME...]: where an unsigned long has 32 bits, about which the
# other kernels cannot tell anything: the KUnit tests of the series, and mappings of
# BARs by a program of 32 bits.  NAME is i386 or i386-pae, with BARs above 4 GiB; both
# unless given.
#
# The kernels are the i386 configurations of check-commits.sh, where that has left
# them, at the last commit; or at the base, to see that it is as good.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

commit=series
if [ "${1:-}" = base ]; then
	commit=base
	shift
fi
[ $# -gt 0 ] || set -- i386 i386-pae
src=$BUILD/walk/linux
program=$LAB/scripts/guest/bar_mmap.c

# With W=1 as there, or all of it would be built again.
kmake()
{
	make -C "$src" O="$out" ARCH=i386 -j"$JOBS" CC="ccache gcc" HOSTCC="ccache gcc" W=1 "$@"
}

# The program is init, with the libc of the kernel tree: for 32 bits there is no other.
pack()
{
	kmake -s headers
	gcc -m32 -Os -Wall -Werror -static -nostdlib -nostdinc \
		-isystem "$src/tools/include/nolibc" -isystem "$out/usr/include" \
		-I"$src/tools/testing/selftests" -o "$out/bar_mmap" "$program"
	cat > "$out/initramfs.list" <<-END
		dir /dev 0755 0 0
		nod /dev/console 0600 0 0 c 5 1
		dir /proc 0755 0 0
		dir /sys 0755 0 0
		file /init $out/bar_mmap 0755 0 0
	END
	"$out/usr/gen_init_cpio" "$out/initramfs.list" > "$out/initramfs.cpio"
}

# What the kernel's parser makes of log $2.  Nothing is no pass, and a skip is none.
parse()
{
	local what=$1 log=$2 result

	"$TREE/tools/testing/kunit/kunit.py" parse "$log" > "$log.parsed" 2>&1 ||
		{ cat "$log.parsed"; die "$what failed on $name"; }
	result=$(grep -E "$passed" "$log.parsed") ||
		{ cat "$log.parsed"; die "$what: not all ran on $name"; }
	echo "ok - $name, $what: ${result##*tests: }"
}

# Boot the kernel in $out with $1 bytes of RAM in ivshmem's BAR.  Where they are too
# many for the addresses below 4 GiB, the firmware has that BAR above it, and each of
# 64 bits that is not behind a bridge: NVMe's.  Of the others BAR0 has 32 bits.
boot()
{
	local size=$1 log=$BUILD/log/boot-$name model bus=0
	local devices=(-drive "if=none,id=disk,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on"
		-device "nvme,serial=lab,drive=disk,bus=pcie.0,addr=4")

	for model in edu,dma_mask=0xffffffffffffffff ivshmem-plain,memdev=bar bochs-display,vgamem=16M; do
		bus=$((bus + 1))
		devices+=(-device "pcie-root-port,id=port$bus,chassis=$bus,addr=$(printf %x $((15 + bus)))"
			-device "$model,bus=port$bus")
	done
	local cmdline=(console=ttyS0 panic=-1 vfio.enable_unsafe_noiommu_mode=1
		kunit.enable=1 kunit.filter_glob=vfio_pci_mmap
		# Words for init: with 32 bits, BAR0 is all that has an offset for mmap().
		-- 0000:00:04.0/0 0000:01:00.0/0 0000:02:00.0/0 0000:02:00.0/2 0000:03:00.0/0)

	rm -f "$log"-{console,ktap}*
	# Time that passes while the guest sleeps, in resets above all, is skipped.
	timeout --kill-after=5 600 "${QEMU:-qemu-system-x86_64}" -M q35 -nodefaults -display none \
		-no-reboot -m 512 -icount shift=0,sleep=off -accel tcg,thread=single \
		-object "memory-backend-ram,id=bar,size=$size,share=on,reserve=off" "${devices[@]}" \
		-kernel "$out/arch/x86/boot/bzImage" -initrd "$out/initramfs.cpio" \
		-serial "file:$log-console.log" -serial "file:$log-ktap.log" \
		-append "${cmdline[*]}" < /dev/null ||
		die "the $name kernel did not come to an end: see $log-console.log"

	PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$LAB/scripts python3 - "$log-console.log" <<-'END' ||
		import sys
		from splats import find_splats
		lines = open(sys.argv[1], errors='backslashreplace').read().splitlines()
		splats = find_splats(lines)
		if not any('reboot: Restarting system' in line for line in lines):
		    splats.append('init did not restart the machine')
		sys.exit('\n'.join(splats) or 0)
	END
		die "the $name kernel had something to say: see $log-console.log"
	[ "$commit" = base ] || parse "KUnit" "$log-console.log"
	parse "mappings of BARs" "$log-ktap.log"
	grep -E '^# .* BAR[0-9]: 0x' "$log-ktap.log"
}

passed='Ran [1-9][0-9]* tests: passed: [0-9]+$'
# Stock has no names of mappings.
[ "$commit" = series ] || passed='Ran [1-9][0-9]* tests: passed: [0-9]+, skipped: 4$'
"$LAB/scripts/walk.sh" "$commit"
for name in "$@"; do
	[[ $name =~ ^i386(-pae)?$ ]] || die "usage: boot-i386.sh [base] [i386] [i386-pae]"
	out=$BUILD/walk/config-$name
	matrix=$LAB/scripts/config/matrix
	fragments=("$matrix"/{common,i386}.config)
	[ "$name" = i386 ] || fragments+=("$matrix/$name.config")
	[ "$commit" = base ] || fragments+=("$matrix/i386.series.config")
	mkdir -p "$out"
	configure "boot-$name" "$src" "$out" "${fragments[@]}"
	configured "boot-$name" "$out" "${fragments[@]}"
	with_progress "building the $name kernel" "$BUILD/log/kernel-boot-$name.log" kmake bzImage
	pack
	if [ "$name" = i386 ]; then boot 64M; else boot 8G; fi
done
# Or nothing of it was above 4 GiB.
[[ " $* " != *" i386-pae "* ]] ||
	grep -q '^# 0000:00:04.0 BAR0: 0x0000000[1-9a-f]' "$BUILD/log/boot-i386-pae-ktap.log" ||
	die "the BAR of the i386-pae machine is not above 4 GiB"
