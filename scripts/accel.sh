#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Print the accelerator that really runs a guest here: kvm or tcg.  A /dev/kvm
# that opens proves nothing, so a kernel is booted once; the answer is kept for
# this QEMU and this host kernel.  LAB_ACCEL=tcg (or kvm) is taken as it is.
#
# usage: accel.sh [BZIMAGE]	(default: the first one that is built)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

QEMU=${QEMU:-qemu-system-x86_64}
LIMIT=10

tcg()
{
	echo "${0##*/}: using tcg, ${2:-}$1" >&2
	echo tcg
	exit 0
}

case ${LAB_ACCEL:-} in
kvm|tcg) echo "$LAB_ACCEL"; exit 0 ;;
'') ;;
*) die "LAB_ACCEL=$LAB_ACCEL is neither kvm nor tcg" ;;
esac

binary=$(command -v "$QEMU") || die "$QEMU is not installed: run scripts/packages.sh"
if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
	tcg "/dev/kvm cannot be opened for reading and writing"
fi

key=$(stat -Lc '%n %s %Y' "$binary"; uname -r)
cache=$BUILD/accel/$(sha256sum <<< "$key" | cut -c1-16)
if [ ! -e "$cache" ]; then
	images=("${1:-}" "$BUILD"/*/arch/x86/boot/bzImage)
	for image in "${images[@]}"; do
		[ ! -f "$image" ] || break
	done
	[ -f "$image" ] || die "there is no kernel to probe KVM with: run \"make kernel\""

	mkdir -p "$BUILD/accel"
	log=$(mktemp "$cache.XXXXXX")
	trap 'rm -f "$log" "$log".*' EXIT
	# Without an initramfs the kernel ends in a panic about its root, far
	# enough to know that the firmware and the kernel run.
	# (In a subshell, as bash would report a QEMU that aborts.)
	status=0
	( timeout --kill-after=2 "$LIMIT" "$binary" -M q35,kernel-irqchip=split -accel kvm \
		-cpu max -m 512 -nodefaults -no-reboot -display none -serial "file:$log.serial" \
		-kernel "$image" -append "console=ttyS0 panic=-1" < /dev/null ) > "$log" 2>&1 || status=$?
	if grep -q 'Unable to mount root\|No working init found' "$log.serial" 2> /dev/null; then
		echo kvm > "$log.answer"
	elif [ "$status" = 124 ]; then
		echo "tcg the guest showed no life under KVM in $LIMIT seconds" > "$log.answer"
	else
		echo "tcg KVM cannot run: $(head -n 1 "$log")" > "$log.answer"
	fi
	mv "$log.answer" "$cache"
fi

read -r answer why < "$cache"
[ "$answer" = kvm ] || tcg "$why"
echo kvm
