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

  --plan FILE          what to run (default scripts/plans/FLAVOUR or, where there
                       is no such file, scripts/plans/all), one line per test:
                       DEVICE[+DEVICE] COLLECTION:TEST [ARGUMENT...]; "-" is no device,
                       and "FLAVOUR:" before it is for one kernel only; "fast:" also
                       for "arm64" and "coverage"
  --shard I/N          only each Nth line of the plan, from the Ith on
  --expected FILE      what each line must pass at least (for the default plan
                       scripts/expected/FLAVOUR); "none" for no such check
  --out DIR            logs and verdict (default build/run/FLAVOUR-PLAN)
  --timeout SECONDS    for the whole guest (default 3600)
  --test-timeout SECONDS   for each test (default: what its "settings" say)
  --kernel-id ID       what the kernel was built of, as kernel.sh notes it in .lab-tree
                       (default: what build/linux has now, for "stock" its base)
  --tests-id ID        the same of the tests
  --cpu MODEL          (default max; with TCG without the instructions it is slow at,
                       so a measurement to be compared with others needs --cpu max)
  --append WORDS       more kernel command line
  --env NAME=VALUE     for the tests; may be repeated
  --add FILE           one more program of the lab, for the plan's "lab:FILE"
  --icount             guest time counts instructions; TCG, one CPU
  --parallel           with TCG, too, CPUs that run at once, as a race needs them.
                       Without it they take turns: see qemu.sh

Devices (scripts/devices): $(awk '/^[a-z]/ { print $1 }' "$LAB/scripts/devices" | paste -sd' ')
END
}

plan='' shard='' expected='' out='' limit=3600 test_limit=''
kernel_id='' tests_id='' cpu='' append='' environment=() add=() icount=0 threads=single flavour=''
while [ $# -gt 0 ]; do
	case $1 in
	--plan|--shard|--expected|--out|--timeout|--test-timeout|--kernel-id|--tests-id|--cpu|--append|--env|--add)
		[ $# -ge 2 ] || die "$1 needs a value" ;;&
	--plan)		plan=$2; shift ;;
	--shard)	shard=$2; shift ;;
	--expected)	expected=$2; shift ;;
	--out)		out=$2; shift ;;
	--timeout)	limit=$2; shift ;;
	--test-timeout)	test_limit=$2; shift ;;
	--kernel-id)	kernel_id=$2; shift ;;
	--tests-id)	tests_id=$2; shift ;;
	--cpu)		cpu=$2; shift ;;
	--append)	append=$2; shift ;;
	--env)		environment+=("$2"); shift ;;
	--add)		add+=("$2"); shift ;;
	--icount)	icount=1 ;;
	--parallel)	threads=multi ;;
	--help|-h)	usage; exit 0 ;;
	--)		shift; break ;;
	-*)		die "unknown option $1: see boot.sh --help" ;;
	*)		[ -z "$flavour" ] || die "one flavour at a time: $flavour or $1?"
			flavour=$1 ;;
	esac
	shift
done
[ -n "$flavour" ] || die "which kernel? See boot.sh --help"
[[ $shard =~ ^([1-9][0-9]*/[1-9][0-9]*)?$ ]] || die "--shard $shard is not like 1/2"
for word in "${environment[@]}"; do
	[[ $word =~ ^[A-Z_]+=[A-Za-z0-9_.-]*$ ]] || die "--env $word is not like NAME=VALUE"
done

plans=$LAB/scripts/plans/$flavour
[ -f "$plans" ] || plans=$LAB/scripts/plans/all
if [ "$flavour" = stock ]; then
	kernel_id=${kernel_id:-$(kgit rev-parse "base^{tree}")}
fi
plan=${plan:-$plans}
kernel=$BUILD/$flavour
machine_of "$flavour"
image=$kernel/$image
out=${out:-$BUILD/run/${flavour##*/}-$(basename "$plan")${shard:+-${shard%/*}}}
if [ -z "$expected" ] && [ "$plan" = "$plans" ]; then
	expected=$LAB/scripts/expected/$flavour
elif [ "$expected" = none ]; then
	expected=
fi
[ -z "$expected" ] || [ -f "$expected" ] || die "there is no file $expected"
[ -f "$image" ] || die "there is no $flavour kernel: run \"make kernel KERNEL=$flavour\" ($image is missing)"
[ -f "$tests/run_kselftest.sh" ] || die "the tests are not built yet: run scripts/selftests.sh --for $flavour"
[ -r "$plan" ] || die "there is no plan $plan"

# A verdict about yesterday's kernel, or by yesterday's tests, is none.
tests_id=${tests_id:-$(tree_id "$TREE")}
is_built "$kernel" "${kernel_id:-$tests_id}" ||
	die "the $flavour kernel was not built of what is in ${TREE#"$LAB"/} now: run \"make kernel KERNEL=$flavour\""
is_built "$tests" "$tests_id" ||
	die "the tests were not built of what is in ${TREE#"$LAB"/} now: run scripts/selftests.sh --for $flavour"

if [ "$icount" = 1 ]; then
	accel=icount
elif [ "$machine" = aarch64 ]; then
	accel=tcg
else
	accel=$("$LAB/scripts/accel.sh" "$image")
fi
if [ "$accel" = tcg ] || [ "$machine" = aarch64 ]; then
	QEMU=$("$LAB/scripts/qemu.sh" "$flavour")
fi
QEMU=${QEMU:-qemu-system-x86_64}
command -v "$QEMU" > /dev/null || die "$QEMU is not installed: run scripts/packages.sh"
qemu_version=$("$QEMU" --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
qemu_devices=$("$QEMU" -device help 2>&1)

qemu_args=(-object "memory-backend-ram,id=bar,size=1G,share=on"
	-drive "if=none,id=disk,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on"
	-drive "if=none,id=disk2,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on")

mkdir -p "$out"
rm -f "$out"/{console.log,ktap.log,qemu.log,run.json,summary.json,gcov.cpio.gz}
bus=0
while IFS=$'\t' read -r name id model; do
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
done < <(grep '^[a-z]' "$LAB/scripts/devices") > "$out/devices"

# The plan without its comments; a test of no collection is one of the lab.  The
# coverage kernel, and that of arm64, also run the lines that are for the fast one.
lines=$flavour:
case $flavour in
coverage|arm64)	lines+=" fast:" ;;
esac
sed -e 's/#.*//' "$plan" |
	awk -v shard="${shard:-1/1}" -v lines=" $lines " 'BEGIN { split(shard, part, "/") }
		$1 ~ /^[a-z0-9]+:$/ { if (!index(lines, " " $1 " ")) next; $1 = ""; $0 = $0 }
		NF && ++n % part[2] == part[1] % part[2] {
			if (NF > 1 && $2 !~ /:/) $2 = "lab:" $2
			$1 = $1; print
		}' > "$out/plan"
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
		die "the plan $plan asks for $test, which is not among the tests: build its collection with scripts/selftests.sh"
done < "$out/plan"
cut -d' ' -f1 "$out/plan" | tr + '\n' | sort -u |
	{ grep -xFf <(awk '$2 != "-" { print $1 }' "$out/devices") || true; } > "$out/bind"

# Nobody has to remember to add a new test to the plan.
if [ "$plan" = "$LAB/scripts/plans/all" ]; then
	missing=$(grep '^vfio:' "$out/tests" | grep -vxF "$(tr ' ' '\n' < "$plan")" || true)
	[ -z "$missing" ] || die "there are tests in no line of $plan: ${missing//$'\n'/ }"
fi

has()
{
	if grep -qx "CONFIG_$1=y" "$kernel/.config"; then echo 1; else echo 0; fi
}
lockdep=$(has PROVE_LOCKING)
kmemleak=$(has DEBUG_KMEMLEAK)
pat=$(has X86_PAT)
[[ " $append " != *" nopat "* ]] || pat=0
# KUnit taints the kernel with TAINT_TEST, and the modules of the tests do so with
# TAINT_OOT_MODULE.
allow_taint=$(($(has KUNIT) << 18))
! compgen -G "$kernel/root/lib/modules/*/updates" > /dev/null || allow_taint=$((allow_taint | 1 << 12))
serial=ttyS busybox=$(command -v busybox || true)
if [ "$machine" = aarch64 ]; then
	serial=ttyAMA busybox=$("$LAB/scripts/arm64.sh")/bin/busybox
fi
cat > "$out/conf" << END
TEST_TIMEOUT=$test_limit
PAT_LIST=$pat
LOCKDEP=$lockdep
KMEMLEAK=$kmemleak
GCOV=$(has GCOV_KERNEL)
ALLOW_TAINT=$allow_taint
SERIAL=$serial
END
gcov=()
[ "$(has GCOV_KERNEL)" = 0 ] || gcov=(-serial "file:$out/gcov.cpio.gz")
# One CPU cannot race: that the races run at all is enough.
[ "$accel" != icount ] || environment=(VFIO_SELFTESTS_RACE_ROUNDS=5 "${environment[@]}")
for word in "${environment[@]}"; do
	echo "export $word"
done >> "$out/conf"

pack()
{
	local file path

	echo "dir /dev 0755 0 0"
	echo "nod /dev/console 0600 0 0 c 5 1"
	echo "dir /bin 0755 0 0"
	echo "file /bin/busybox $busybox 0755 0 0"
	echo "slink /bin/sh busybox 0777 0 0"
	echo "file /init $LAB/scripts/guest/init 0755 0 0"
	echo "dir /lab 0755 0 0"
	for file in "$LAB/scripts/guest/"{timeout,ktap.awk} "$out"/{conf,devices,bind,plan}; do
		echo "file /lab/$(basename "$file") $file 0755 0 0"
	done
	find "$kernel/root" -mindepth 1 -type d -printf 'dir /%P 0755 0 0\n' | sort
	find "$kernel/root" -type f -printf 'file /%P %p 0%m 0 0\n'
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
memory=4096
need=$((memory + 1024 + 512))
have=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
[ "$have" -ge "$need" ] ||
	die "the guest needs $need MiB of memory and this machine has $have MiB available: free some"

case $accel in
icount)	qemu_args+=(-smp 1 -icount 'shift=0,sleep=off' -accel 'tcg,thread=single') ;;
kvm)	qemu_args+=(-smp 2 -accel kvm) ;;
tcg)	qemu_args+=(-smp 2 -accel "tcg,thread=$threads") ;;
esac

words=() x2apic=false
if [ "$machine" = aarch64 ]; then
	board=(-M "virt,gic-version=3,iommu=smmuv3")
	cpu=${cpu:-max}
	# The instructions that copy memory do so byte by byte here, which a register of EDU
	# does not take.  Where the kernel does it for a process, it dies of that.
	# That a program crashed is not said unless asked for.
	words=(arm64.nomops sysctl.debug.exception-trace=1)
else
	# TCG does "rep stosb" byte by byte: clearing a page costs eight times as much
	# with ERMS, and a 1 GiB page many seconds.  With LA57 KASAN reports one false
	# positive while a CPU is identified.
	[ "$accel" = kvm ] || cpu=${cpu:-max,-erms,-fsrm,-la57}
	cpu=${cpu:-max}
	iommu=intel-iommu,intremap=on,caching-mode=on
	if [ "$accel" = tcg ]; then
		x2apic=true
		iommu+=,eim=on
		cpu+=,+x2apic
	fi
	# With ACPI hotplug the ports never report that their link is up, and the kernel gives
	# a device with power management up after a reset of its bus.
	board=(-M "q35,kernel-irqchip=split" -device "$iommu"
		-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off)
	words=(intel_iommu=on)
fi
cmdline=("console=${serial}0" ignore_loglevel printk.devkmsg=on "${words[@]}" panic=-1 oops=panic
	hugepagesz=1G hugepages=1 hugepagesz=2M hugepages=64
	# Some tests pin 1 GiB of shared memory, again and again.
	transparent_hugepage_shmem=always)

# SLUB's per-CPU sheaves keep the addresses of what was allocated from them, and
# kmemleak takes these for references: of 50 leaks it saw 28.  A cache with a debug
# option has no sheaves.
[ "$kmemleak" = 0 ] || cmdline+=("slab_debug=Z,kmalloc*")

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
timeout --kill-after=5 "$limit" "$QEMU" "${board[@]}" -cpu "$cpu" -m "$memory" \
	-nodefaults -no-reboot -display none \
	-serial "file:$out/console.log" -serial "file:$out/ktap.log" "${gcov[@]}" \
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
{"kernel": "$flavour", "accel": "$accel", "qemu": "$qemu_version", "seconds": $((SECONDS - started)),
 "qemu_status": $status, "timeout": $limit, "pat": $pat, "lockdep": $lockdep,
 "kmemleak": $kmemleak, "x2apic": $x2apic}
END
# Of another plan than the kernel's own, only the lines that it has are compared.
part=
[ -z "$shard" ] && [ "$plan" = "$plans" ] || part=--part
# shellcheck disable=SC2086 # no argument at all where it is empty
exec "$LAB/scripts/verdict.py" --tree "$TREE" \
	${expected:+--expected "$expected"} $part "$out"
