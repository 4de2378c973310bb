#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What boot.sh refuses to boot, with a QEMU that does nothing.

# shellcheck disable=SC2164 # bats ends a test at the first command that fails
bats_require_minimum_version 1.5.0

setup()
{
	project=$BATS_TEST_TMPDIR/project
	mkdir -p "$project/build/"{linux,fast/arch/x86/boot,kselftest,fast/root/lib,fast/usr}
	cp -r "$BATS_TEST_DIRNAME/../../scripts" "$project/"
	cd "$project"
	git init -q build/linux
	echo one > build/linux/file
	git -C build/linux -c user.name=a -c user.email=a@b.c add -A
	git -C build/linux -c user.name=a -c user.email=a@b.c commit -q -m one
	touch build/fast/{.config,arch/x86/boot/bzImage} build/kselftest/run_kselftest.sh
	git -C build/linux rev-parse 'HEAD^{tree}' | tee build/fast/.lab-tree > build/kselftest/.lab-tree
	sed -n -e 's/^[a-z0-9]*: //' -e '/^[^#]/p' scripts/plans/{all,plain} |
		awk '{ print ($2 ~ /:/ ? "" : "lab:") $2 }' | sort -u > build/kselftest/kselftest-list.txt
	cat > qemu <<- 'END'
		#!/bin/sh
		case "$*" in
		--version) echo "QEMU emulator version 10.0.2" ;;
		"-M help") echo "virt   QEMU 10.0 ARM Virtual Machine" ;;
		"-device help") printf 'name "%s"\n' edu ivshmem-plain bochs-display nvme igb e1000e ;;
		*) echo "$*" > booted ;;
		esac
	END
	printf '#!/bin/sh\n' > build/fast/usr/gen_init_cpio
	chmod +x qemu build/fast/usr/gen_init_cpio
	export QEMU=$project/qemu
}

# boot.sh must say $1 and boot nothing.
refused()
{
	run scripts/boot.sh --icount fast
	echo "$output"
	[ "$status" -ne 0 ]
	[[ $output == *"$1"* ]]
	[ ! -e booted ]
}

@test "boots what is of this tree" {
	run scripts/boot.sh --icount fast
	[ -e booted ]
}

@test "a kernel that has a plan of its own" {
	cp -r build/fast build/plain
	run scripts/boot.sh --icount plain
	[ -e booted ]
	grep -q bar_mmap build/run/plain-plain/plan
}

@test "a kernel of another machine, with tests of its own and the lines for the fast one" {
	mkdir -p build/arm64/arch/arm64/boot build/arm64-root
	cp -r build/fast/{.config,.lab-tree,root,usr} build/arm64
	touch build/arm64/arch/arm64/boot/Image
	run scripts/boot.sh --icount arm64
	[[ $output == *"the tests are not built yet"* ]]
	[ ! -e booted ]
	cp -r build/kselftest build/kselftest-arm64
	run scripts/boot.sh --icount arm64
	grep -q -- "-M virt,.* -kernel .*/arm64/boot/Image .* console=ttyAMA0 " booted
	grep -q '^nvme vfio:vfio_pci_mmap_test$' build/run/arm64-all/plan
	run ! grep -q 'vfio_pci_mmap_test -v ' build/run/arm64-all/plan
}

@test "a kernel of another tree" {
	echo of-another-tree > build/fast/.lab-tree
	refused "the fast kernel was not built of what is in build/linux now"
}

@test "a kernel of which nobody knows the tree" {
	rm build/fast/.lab-tree
	refused "the fast kernel was not built of what is in build/linux now"
}

@test "tests of another tree" {
	echo of-another-tree > build/kselftest/.lab-tree
	refused "the tests were not built of what is in build/linux now"
}

@test "a change that is not committed makes another tree" {
	echo two > build/linux/file
	# In the second in which it was written, git reads it anyway.
	sleep 1
	refused "the fast kernel was not built of what is in build/linux now"
}

@test "a new file makes another tree" {
	touch build/linux/new
	refused "the fast kernel was not built of what is in build/linux now"
}

@test "a test that is in no line of the plan" {
	echo vfio:vfio_new_test >> build/kselftest/kselftest-list.txt
	refused "there are tests in no line of"
}

@test "a test of the plan that is not built" {
	sed -i '/vfio_pci_device_test/d' build/kselftest/kselftest-list.txt
	refused "asks for vfio:vfio_pci_device_test, which is not among the tests"
}
