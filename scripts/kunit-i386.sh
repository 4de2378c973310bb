#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Run the KUnit tests of the series where an unsigned long has 32 bits, which the
# debug kernel cannot tell anything about.  The kernel is the i386 configuration of
# check-commits.sh, where that has left it, at the last commit.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/kconfig.sh
. "$LAB/scripts/kconfig.sh"

src=$BUILD/walk/linux
out=$BUILD/walk/config-i386
fragments=("$LAB"/scripts/config/matrix/{common,i386,i386.series}.config)

# With W=1 as there, or all of it would be built again.
kmake()
{
	make -C "$src" O="$out" ARCH=i386 -j"$JOBS" CC="ccache gcc" HOSTCC="ccache gcc" W=1 "$@"
}

"$LAB/scripts/walk.sh" series
mkdir -p "$out"
configure kunit-i386 "$src" "$out" "${fragments[@]}"
configured kunit-i386 "$out" "${fragments[@]}"
with_progress "building the i386 kernel" "$BUILD/log/kernel-kunit-i386.log" kmake bzImage

# kunit.py would take KVM where there is some, and it may not run this kernel.
console=$BUILD/log/kunit-i386-console.log
timeout --kill-after=5 600 "${QEMU:-qemu-system-x86_64}" -nodefaults -display none -no-reboot -m 1024 \
	-accel tcg -kernel "$out/arch/x86/boot/bzImage" -serial "file:$console" \
	-append 'console=ttyS0 panic=-1 kunit.enable=1 kunit.filter_glob=vfio_pci_mmap kunit_shutdown=reboot' \
	< /dev/null || die "the i386 kernel did not come to an end: see $console"
log=$BUILD/log/kunit-i386.log
"$TREE/tools/testing/kunit/kunit.py" parse "$console" > "$log" 2>&1 ||
	{ cat "$log"; die "the tests failed on i386"; }
# Nothing is no pass.
result=$(grep -E 'Ran [1-9][0-9]* tests: passed: [0-9]+$' "$log") ||
	{ cat "$log"; die "not all tests ran on i386"; }
echo "ok - i386: ${result##*. }"
