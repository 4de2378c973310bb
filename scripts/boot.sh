#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Boot the kernel of one flavour in QEMU, run a plan of tests in it, and judge
# the logs.  Succeeds only where the verdict is green.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

usage()
{
	cat << END
usage: boot.sh [option...] FLAVOUR [-- QEMU-ARGUMENT...]

  --plan FILE          what to run (default scripts/plans/all), one line per test:
                       DEVICE[+DEVICE] COLLECTION:TEST [ARGUMENT...]; "-" is no device
  --out DIR            logs and verdict (default build/run/FLAVOUR-PLAN)
  --timeout SECONDS    for the whole guest (default 900)
  --test-timeout SECONDS   for each test (default: what its "settings" say)
  --smp N              CPUs (default 2)
  --memory MIB         (default 4096)
  --cpu MODEL          (default max; with TCG without the instructions it is slow at,
                       so a measurement to be compared with others needs --cpu max)
  --append WORDS       more kernel command line
  --add FILE           one more program of the lab, for the plan's "lab:FILE"
  --icount             guest time counts instructions; TCG, one CPU
  --parallel           with TCG let the CPUs run side by side, also where QEMU is too old
                       for tests that take a device's memory away
  --allow-test-taint   the kernel may be tainted by TAINT_TEST

Devices: edu ivshmem bochs nvme igb e1000e
END
}

plan=$LAB/scripts/plans/all out='' limit=900 test_limit='' cpus=2 memory=4096
cpu='' append='' add=() icount=0 parallel=0 test_taint=0 flavour=''
while [ $# -gt 0 ]; do
	case $1 in
	--plan|--out|--timeout|--test-timeout|--smp|--memory|--cpu|--append|--add)
		[ $# -ge 2 ] || die "$1 needs a value" ;;&
	--plan)		plan=$2; shift ;;
	--out)		out=$2; shift ;;
	--timeout)	limit=$2; shift ;;
	--test-timeout)	test_limit=$2; shift ;;
	--smp)		cpus=$2; shift ;;
	--memory)	memory=$2; shift ;;
	--cpu)		cpu=$2; shift ;;
	--append)	append=$2; shift ;;
	--add)		add+=("$2"); shift ;;
	--icount)	icount=1 ;;
	--parallel)	parallel=1 ;;
	--allow-test-taint) test_taint=1 ;;
	--help|-h)	usage; exit 0 ;;
	--)		shift; break ;;
	-*)		die "unknown option $1: see boot.sh --help" ;;
	*)		[ -z "$flavour" ] || die "one flavour at a time: $flavour or $1?"
			flavour=$1 ;;
	esac
	shift
done
[ -n "$flavour" ] || die "which kernel? See boot.sh --help"

kernel=$BUILD/$flavour
image=$kernel/arch/x86/boot/bzImage
tests=$kernel/kselftest
out=${out:-$BUILD/run/$flavour-$(basename "$plan")}
[ -f "$image" ] || die "there is no $flavour kernel: run \"make kernel\" ($image is missing)"
[ -f "$tests/run_kselftest.sh" ] || die "the $flavour kernel has no tests yet: run scripts/selftests.sh $flavour"
[ -f "$plan" ] || die "there is no plan $plan"

QEMU=${QEMU:-qemu-system-x86_64}
command -v "$QEMU" > /dev/null || die "$QEMU is not installed: run scripts/packages.sh"
qemu_version=$("$QEMU" --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
qemu_devices=$("$QEMU" -device help 2>&1)

# Name, ID, and what QEMU is to be told.  A device's place here is its bus, also
# where a device before it is missing: the same name is the same BDF everywhere.
devices='
edu	1234:11e8	edu,dma_mask=0xffffffffffffffff
ivshmem	1af4:1110	ivshmem-plain,memdev=bar
bochs	1234:1111	bochs-display,vgamem=64M
nvme	1b36:0010	nvme,serial=lab,drive=disk
igb	8086:10c9	igb
e1000e	8086:10d3	e1000e,romfile=
'
qemu_args=(-object "memory-backend-ram,id=bar,size=1G,share=on"
	-drive "if=none,id=disk,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on")

mkdir -p "$out"
rm -f "$out"/{console.log,ktap.log,qemu.log,run.json,summary.json}
bus=0
while IFS=$'\t' read -r name id model; do
	[ -n "$name" ] || continue
	bus=$((bus + 1))
	qemu_args+=(-device "pcie-root-port,id=port$bus,bus=pcie.0,chassis=$bus,addr=$(printf %x $((15 + bus)))")
	if grep -q "^name \"${model%%,*}\"" <<< "$qemu_devices"; then
		qemu_args+=(-device "$model,bus=port$bus")
		echo "$name 0000:0$bus:00.0 $id"
	elif [ "$name" = igb ]; then
		echo "$name - QEMU $qemu_version has no $name"
	else
		die "this QEMU ($QEMU $qemu_version) has no device \"${model%%,*}\": install a QEMU that was built with it"
	fi
done <<< "$devices" > "$out/devices"

# The plan without its comments; a test of no collection is one of the lab.
sed -e 's/#.*//' "$plan" |
	awk 'NF { if (NF > 1 && $2 !~ /:/) $2 = "lab:" $2; $1 = $1; print }' > "$out/plan"
[ -s "$out/plan" ] || die "the plan $plan has nothing to run"
{
	cat "$tests/kselftest-list.txt"
	for file in "${add[@]}"; do
		echo "lab:$(basename "$file")"
	done
} > "$out/tests"
while read -r where test _; do
	[ -n "$test" ] || die "the plan $plan has a line without a test: \"$where\""
	for name in ${where//+/ }; do
		[ "$name" = - ] || grep -q "^$name " "$out/devices" ||
			die "the plan $plan asks for a device the lab does not have: \"$name\""
	done
	grep -qxF "$test" "$out/tests" ||
		die "the plan $plan asks for $test, which is not among the tests of the $flavour kernel: build its collection with scripts/selftests.sh"
done < "$out/plan"
cut -d' ' -f1 "$out/plan" | tr + '\n' | sort -u |
	{ grep -xFf <(awk '$2 != "-" { print $1 }' "$out/devices") || true; } > "$out/bind"

lockdep=0
! grep -qx CONFIG_PROVE_LOCKING=y "$kernel/.config" || lockdep=1
cat > "$out/conf" << END
TEST_TIMEOUT=$test_limit
LOCKDEP=$lockdep
ALLOW_TEST_TAINT=$test_taint
END

pack()
{
	local file path

	echo "dir /dev 0755 0 0"
	echo "nod /dev/console 0600 0 0 c 5 1"
	echo "dir /bin 0755 0 0"
	echo "file /bin/busybox $(command -v busybox) 0755 0 0"
	echo "slink /bin/sh busybox 0777 0 0"
	echo "file /init $LAB/scripts/guest/init 0755 0 0"
	echo "dir /lab 0755 0 0"
	for file in "$LAB/scripts/guest/"{timeout,ktap.awk} "$out"/{conf,devices,bind,plan}; do
		echo "file /lab/$(basename "$file") $file 0755 0 0"
	done
	find -H "$tests" -printf '%y %P %p\n' | sort | while read -r type path file; do
		case $type:$path in
		d:*)	[ -n "$file" ] || path=''
			echo "dir /kselftest${path:+/$path} 0755 0 0" ;;
		f:kselftest-list.txt) echo "file /kselftest/$path $out/tests 0644 0 0" ;;
		f:*)	echo "file /kselftest/$path $file 0755 0 0" ;;
		esac
	done
	for file in "${add[@]}"; do
		echo "file /kselftest/lab/$(basename "$file") $(realpath "$file") 0755 0 0"
	done
}
pack > "$out/initramfs.list"
"$kernel/usr/gen_init_cpio" "$out/initramfs.list" > "$out/initramfs.cpio"

# 1 GiB is the RAM of the ivshmem device, the rest is for QEMU itself.
need=$((memory + 1024 + 512))
have=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
[ "$have" -ge "$need" ] ||
	die "the guest needs $need MiB of memory and this machine has $have MiB available: free some or give --memory"

if [ "$icount" = 1 ]; then
	cpus=1 accel=icount
	qemu_args+=(-icount 'shift=0,sleep=off' -accel 'tcg,thread=single')
else
	accel=$("$LAB/scripts/accel.sh" "$image")
	case $accel in
	kvm)	qemu_args+=(-accel kvm) ;;
	tcg)	# A QEMU before 8.2 can lose what a CPU writes to its APIC while
		# another CPU changes which BARs are there.  Without the end of a
		# timer interrupt a CPU gets no more of them: vector 236 is in ISR
		# and IRR for ever.  In one thread they take turns.
		threads=single
		if [ "$parallel" = 1 ] || [ "$(printf '%s\n' 8.2 "$qemu_version" | sort -V | head -n 1)" = 8.2 ]; then
			threads=multi
		fi
		qemu_args+=(-accel "tcg,thread=$threads") ;;
	esac
fi

cmdline=(console=ttyS0 ignore_loglevel printk.devkmsg=on intel_iommu=on panic=-1 oops=panic
	hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=64
	# Some tests pin 1 GiB of shared memory, again and again.
	transparent_hugepage_shmem=always)

# TCG does "rep stosb" byte by byte: clearing a page costs eight times as much
# with ERMS, and a 1 GiB page many seconds.
[ "$accel" = kvm ] || cpu=${cpu:-max,-erms,-fsrm}

# One line per finished test, with the time since the start.
progress()
{
	local line
	while IFS= read -r line; do
		case $line in
		'ok '*|'not ok '*) printf '%4d s  %s\n' $((SECONDS - started)) "$line" >&2 ;;
		esac
	done
}

qemu=
cleanup()
{
	[ -z "$qemu" ] || kill "$qemu" 2> /dev/null || true
	wait
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

say "booting the $flavour kernel with $(basename "$plan") ($accel, logs: $out)"
: > "$out/ktap.log"
started=$SECONDS
# A hang ends at the limit, and so does QEMU where this script is killed.
timeout --kill-after=5 "$limit" "$QEMU" -M q35,kernel-irqchip=split \
	-device intel-iommu,intremap=on,caching-mode=on -cpu "${cpu:-max}" -smp "$cpus" -m "$memory" \
	-nodefaults -no-reboot -display none \
	-serial "file:$out/console.log" -serial "file:$out/ktap.log" \
	"${qemu_args[@]}" -kernel "$image" -initrd "$out/initramfs.cpio" -append \
	"${cmdline[*]} $append" \
	"$@" < /dev/null > "$out/qemu.log" 2>&1 &
qemu=$!
tail -n +1 -s 0.2 -F --pid="$qemu" "$out/ktap.log" 2> /dev/null | progress &
# "wait" is what a signal can interrupt, to get to the trap.
status=0
wait "$qemu" || status=$?
qemu=
wait
cat > "$out/run.json" << END
{"kernel": "$flavour", "accel": "$accel", "seconds": $((SECONDS - started)),
 "qemu_status": $status, "timeout": $limit, "lockdep": $lockdep}
END
exec "$LAB/scripts/verdict.py" --tree "$TREE" "$out"
