#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Does the verdict see what it must see?  Real logs (record.sh makes them) and
what can befall a real log; each bad one must be red for its own reason.

usage: verdict_test.py, with the kernel tree in $LAB_TREE or build/linux
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import mutant_verdict  # noqa: E402
import splats  # noqa: E402
import verdict  # noqa: E402

TREE = Path(os.environ.get('LAB_TREE', HERE.parents[1] / 'build/linux'))

# Lines as kernels print them, and the problem each must be taken for.
SPLATS = [
    ('Kernel panic - not syncing: dumptest', 'kernel panic'),
    ('BUG: KASAN: slab-use-after-free in foo+0x1/0x2', 'KASAN: invalid memory access'),
    ('BUG: KFENCE: use-after-free read in foo+0x1/0x2', 'memory or data race sanitizer report'),
    ('BUG: KMSAN: uninit-value in foo+0x1/0x2', 'memory or data race sanitizer report'),
    ('BUG: KCSAN: data-race in foo / bar', 'memory or data race sanitizer report'),
    ('UBSAN: shift-out-of-bounds in drivers/foo.c:1:2', 'UBSAN: undefined behaviour'),
    ('vfio_test[97]: segfault at 0 ip 401234 sp 7ffd error 4 in vfio_test[1234,401000+2000]', 'a program crashed'),
    ('traps: vfio_test[97] general protection fault ip:401234 sp:7ffd error:0 in vfio_test[1234,401000+2000]',
     'a program crashed'),
    ('vfio_test[97]: unhandled exception: DABT (lower EL), ESR 0x0000000092000046, level 2 translation fault in vfio_test',
     'a program crashed'),
    ('Oops: general protection fault, probably for non-canonical address', 'general protection fault'),
    ('kernel BUG at mm/page_table_check.c:118!', 'page_table_check: page mapped in a wrong way'),
    ('WARNING: mm/page_table_check.c:202 at __page_table_check_ptes_set+0x1/0x2, CPU#0: cat/12',
     'page_table_check: page mapped in a wrong way'),
    ('mm/pgtable-generic.c:54: bad pte ffff888101234000(8000000123456025)', 'corrupt page table'),
    ('mm/pgtable-generic.c:47: bad pmd ffff888101234000(8000000123456025)', 'corrupt page table'),
    ('mm/mremap.c:90: bad pud ffff888101234000(80000001400000e7)', 'corrupt page table'),
    ('mm/pgtable-generic.c:33: bad p4d ffff888101234000(8000000123456025)', 'corrupt page table'),
    ('mm/pgtable-generic.c:26: bad pgd ffff888101234000(8000000123456025)', 'corrupt page table'),
    ('kernel BUG at mm/foo.c:12!', 'BUG()'),
    ('BUG: unable to handle page fault for address: ffff', 'bad kernel memory access'),
    ('Unable to handle kernel paging request at virtual address', 'bad kernel memory access'),
    ('unable to handle page fault for address: ffff', 'bad kernel memory access'),
    ('Unable to handle an access to ffff', 'bad kernel memory access'),
    ('WARNING: possible circular locking dependency detected', 'lockdep: possible deadlock'),
    ('WARNING: possible recursive locking detected', 'lockdep: possible deadlock'),
    ('WARNING: possible irq lock inversion dependency detected', 'lockdep: possible deadlock'),
    ('WARNING: inconsistent lock state', 'lockdep: irq-unsafe locking'),
    ('WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected', 'lockdep: irq-unsafe locking'),
    ('WARNING: bad unlock balance detected!', 'lockdep: unbalanced locking'),
    ('WARNING: lock held when returning to user space!', 'lockdep: unbalanced locking'),
    ('WARNING: held lock freed!', 'lockdep: unbalanced locking'),
    ('WARNING: cat/12 still has locks held!', 'lockdep: unbalanced locking'),
    ('[ BUG: Invalid wait context ]', 'lockdep: sleeping lock in an atomic context'),
    ('WARNING: suspicious RCU usage', 'suspicious RCU usage'),
    ('INFO: trying to register non-static key.', 'lockdep: lock was never initialised'),
    ('DEBUG_LOCKS_WARN_ON(1)', 'lockdep: inconsistent state'),
    ('INFO: lockdep is turned off.', 'lockdep turned itself off'),
    ('turning off the locking correctness validator.', 'lockdep turned itself off'),
    ('Disabling lock debugging due to kernel taint', 'lockdep turned itself off'),
    ('BUG: sleeping function called from invalid context at mm/foo.c:1', 'sleep in atomic context'),
    ('BUG: scheduling while atomic: cat/1/0x00000002', 'schedule in atomic context'),
    ('INFO: task cat:12 blocked for more than 120 seconds.', 'hung task'),
    ('rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:', 'RCU stall'),
    ('rcu: rcu_preempt kthread starved for 5252 jiffies! g1 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=0', 'RCU stall'),
    ("rcu: rcu_preempt kthread timer wakeup didn't happen for 5251 jiffies! g1 f0x0", 'RCU stall'),
    ('rcu: INFO: rcu_preempt self-detected stall on CPU', 'RCU stall'),
    ('watchdog: BUG: soft lockup - CPU#0 stuck for 22s!', 'soft lockup'),
    ('watchdog: Watchdog detected hard LOCKUP on cpu 0', 'hard lockup'),
    ('BUG: workqueue lockup - pool cpus=0', 'workqueue lockup'),
    ('list_add corruption. prev->next should be next', 'list corruption'),
    ('list_del corruption. prev->next should be foo', 'list corruption'),
    ('refcount_t: underflow; use-after-free.', 'reference count error'),
    ('ODEBUG: free active (active state 0) object', 'ODEBUG: object lifetime error'),
    ('BUG kmalloc-64 (Not tainted): Poison overwritten', 'slab corruption'),
    ('unreferenced object 0xffff888000000000 (size 64):', 'memory leak'),
    ('kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)', 'memory leak'),
    ('kmemleak: Kernel memory leak detector disabled', 'kmemleak turned itself off'),
    ('x86/PAT: vfio:97 freeing invalid memtype [mem 0xfe000000-0xfe000fff]', 'memory type conflict'),
    ('x86/PAT: vfio:97 conflicting memory types fe000000-fe001000 uncached-minus<->write-combining',
     'memory type conflict'),
    ('x86/PAT: memtype_reserve failed [mem 0xfe000000-0xfe000fff], track write-combining, req uncached-minus',
     'memory type conflict'),
    ('x86/PAT: vfio:97 map pfn expected mapping type uncached-minus for [mem 0xfe00-0xfeff], got write-combining',
     'memory type conflict'),
    ('DMA-API: vfio-pci 0000:01:00.0: device driver has pending DMA allocations while released from device [count=1]',
     'DMA-API: misuse, or not checked'),
    ('DMA-API: debugging out of memory - disabling', 'DMA-API: misuse, or not checked'),
    ('vfio-pci 0000:01:00.0: not ready 65535ms after bus reset; giving up', 'device lost in a reset'),
    ('vfio-pci 0000:01:00.0: vfio_bar_restore: reset recovery - restoring BARs', 'device lost in a reset'),
    ('vfio-pci 0000:01:00.0: AER: PCIe Bus Error: severity=Uncorrectable (Inaccessible)', 'PCIe error'),
    ('pcieport 0000:00:10.0: AER: Multiple Fatal error message received from 0000:01:00.0', 'PCIe error'),
    ('pcieport 0000:00:10.0: AER: device recovery failed', 'PCIe error'),
    ('arm-smmu-v3 9050000.smmuv3: CMDQ error (cons 0x01000000): Illegal command', 'IOMMU error'),
    ('arm-smmu-v3 9050000.smmuv3: CMD_SYNC timeout at 0x00000012 [hwprod 0x00000013, hwcons 0x00000012]', 'IOMMU error'),
    ('arm-smmu-v3 9050000.smmuv3: EVTQ overflow detected -- events lost', 'IOMMU error'),
    ('cat: page allocation failure: order:0, mode:0x0', 'out of memory'),
    ('Out of memory: Killed process 12 (cat)', 'out of memory'),
    ('irq 16: nobody cared (try booting with the "irqpoll" option)', 'unhandled interrupt'),
    ('No irq handler for 1.35', 'unhandled interrupt'),
    ('VFS: Busy inodes after unmount of sda (ext4)', 'inodes in use after unmount'),
    ('** 12 printk messages dropped **', 'kernel log lost messages'),
    ('Oops: invalid opcode: 0000 [#1] SMP', 'oops'),
    ('Internal error: synchronous external abort', 'oops'),
    ('WARNING: drivers/foo.c:12 at foo+0x1/0x2, CPU#0: cat/12', 'WARN()'),
    ('BUG: spinlock bad magic on CPU#0, cat/12', 'BUG'),
    ('------------[ cut here ]------------', 'report'),
    ('Call Trace:', 'stack trace'),
    ('Call trace:', 'stack trace'),
]
# What looks like one of these, and is printed by kernels that are well.
HARMLESS = [
    'Kernel command line: console=ttyS0 page_table_check=on slub_debug=FZP oops=panic',
    'x86/PAT: Configuration [0-7]: WB  WC  UC- UC  WB  WP  UC- WT  ',
    'x2apic enabled',
    'rcu: Hierarchical RCU implementation.',
    'rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.',
    'Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar',
    'debug_vm_pgtable: [debug_vm_pgtable         ]: Validating architecture page table helpers',
    'page_table_check: enabled',
    'kmemleak: Kernel memory leak detector initialized (mem pool available: 15680)',
    'kmemleak: Automatic memory scanning thread started',
    'DMA-API: preallocated 65536 debug entries',
    'DMA-API: debugging enabled by kernel config',
    'DMA-API: dma_debug_entry pool grown to 131072 (200%)',
    'pcieport 0000:00:10.0: AER: enabled with IRQ 24',
    'kfence: initialized - using 2097152 bytes for 255 objects at 0xffff - 0xffff',
    'vfio-pci 0000:01:00.0: not ready 1023ms after bus reset; waiting',
    'vfio-pci 0000:01:00.0: ready 2047ms after bus reset',
    'vfio-pci 0000:01:00.0: reset done',
    # DMA that the tests of imports have refused.
    'DMAR: DRHD: handling fault status reg 2',
    'DMAR: [DMA Read NO_PASID] Request device [0000:01:00.0] fault addr 0x80000000 [fault reason 0x06] '
    'PTE Read access is not set',
    'DMAR: Dump dmar0 table entries for IOVA 0x80000000',
    'DMAR: page table not present at level 2',
    'dmar_fault: 26 callbacks suppressed',
    'arm-smmu-v3 9050000.smmuv3: event: F_TRANSLATION client: 0000:01:00.0 sid: 0x100 ssid: 0x0 iova: 0xc0000000 ipa: 0x0',
]
# The pins of the run "good"
PINS = """\
# SPDX-License-Identifier: GPL-2.0-only
# A word about it
    5/5  edu edu_demo
    4/5  edu vfio_pci_device_test
    0/0  igb vfio_pci_device_test  # new in QEMU 8
"""


def classify(line: str, denylist: list[tuple[str, str]]) -> str:
    return next((reason for pattern, reason in denylist if re.search(pattern, line)), '')


def without_an_alternative(pattern: str) -> list[str]:
    """The pattern without each of its alternatives, on every level."""
    shorter = []
    # Where the alternatives of each open group begin, and that of the whole
    groups = [[0]]
    for token in re.finditer(r'\\.|\[[^]]*\]|\((\?[:=!])?|[|)]|$', pattern):
        if token[0].startswith('('):
            groups.append([token.end()])
        elif token[0] == '|':
            groups[-1].append(token.end())
        elif token[0] in (')', ''):
            starts = [*groups.pop(), token.start() + 1]
            if len(starts) == 2:
                continue
            for begin, end in zip(starts, starts[1:]):
                # With the "|" behind it, or before it where it is the last.
                begin -= end == starts[-1]
                end -= end == starts[-1]
                shorter.append(pattern[:begin] + pattern[end:])
    return shorter


class Denylist(unittest.TestCase):
    def assert_needed(self, denylist: list[tuple[str, str]], what: str) -> None:
        self.assertTrue(any(classify(line, denylist) != reason for line, reason in SPLATS) or
                        any(classify(line, denylist) for line in HARMLESS), f'no sample needs {what}')

    def test_every_sample_is_taken_for_what_it_is(self):
        for line, reason in SPLATS:
            self.assertEqual(classify('[    1.234567] ' + line, splats.DENYLIST), reason, line)

    def test_what_is_harmless_is_taken_for_nothing(self):
        for line in HARMLESS:
            self.assertEqual(classify('[    1.234567] ' + line, splats.DENYLIST), '', line)

    def test_no_entry_can_be_removed_unseen(self):
        for entry in splats.DENYLIST:
            self.assert_needed([other for other in splats.DENYLIST if other != entry], str(entry))

    def test_no_alternative_can_be_removed_unseen(self):
        for index, (pattern, reason) in enumerate(splats.DENYLIST):
            for less in without_an_alternative(pattern):
                self.assert_needed([*splats.DENYLIST[:index], (less, reason), *splats.DENYLIST[index + 1:]],
                                   f'all of "{pattern}", but "{less}" will do')

    def test_alternatives_are_found(self):
        self.assertEqual(without_an_alternative(r'a\(b'), [])
        self.assertEqual(without_an_alternative('a|b'), ['b', 'a'])
        self.assertEqual(without_an_alternative(r'(?i)x(?!a|b[|]|\|)y'), [
            r'(?i)x(?!b[|]|\|)y', r'(?i)x(?!a|\|)y', '(?i)x(?!a|b[|])y'])
        self.assertEqual(without_an_alternative('(a|b)|c'), ['(b)|c', '(a)|c', 'c', '(a|b)'])


class Runs(unittest.TestCase):
    """Each test gets a copy of a recorded run, which it may damage."""

    def use(self, name: str) -> None:
        self.run_dir = Path(tempfile.mkdtemp()) / 'run'
        self.addCleanup(shutil.rmtree, self.run_dir.parent)
        shutil.copytree(HERE / 'logs' / name, self.run_dir)
        self.pins = self.run_dir.parent / 'pins'
        self.pins.write_text(PINS)

    def edit(self, file: str, change) -> None:
        path = self.run_dir / file
        before = path.read_text()
        after = change(before)
        self.assertNotEqual(before, after, 'the damage did no damage')
        path.write_text(after)

    def edit_info(self, **values) -> None:
        """Change run.json; None takes a key away."""
        info = json.loads((self.run_dir / 'run.json').read_text()) | values
        (self.run_dir / 'run.json').write_text(
            json.dumps({key: value for key, value in info.items() if value is not None}))

    def break_case(self, program: str, case: str) -> None:
        self.edit('ktap.log', lambda text: re.sub(rf'^  ok (\d+ {case})', r'  not ok \1', text, flags=re.M))
        self.edit('ktap.log', lambda text: re.sub(
            rf'^ok (\d+ {program})', r'# lab: reason=exit=1\nnot ok \1', text, flags=re.M))

    def judge(self) -> tuple[list, list[str]]:
        rows = verdict.judge(self.run_dir, TREE)
        return rows, [f'{row.name}: {why}' for row in rows for why in row.failures]

    def assert_says(self, failures: list[str], *patterns: str) -> None:
        for pattern in patterns:
            self.assertTrue(any(re.search(pattern, why) for why in failures),
                            f'nothing about "{pattern}" in {failures}')

    def assert_red(self, *patterns: str) -> None:
        self.assert_says(self.judge()[1], *patterns)

    def main(self, *args) -> tuple[int, list[str]]:
        """Exit code and output of the command; "DIR" in its arguments is the run."""
        command = [str(self.run_dir if arg == 'DIR' else arg) for arg in ('--tree', TREE, *args)]
        with (unittest.mock.patch('sys.argv', ['verdict.py', *command]),
              contextlib.redirect_stdout(io.StringIO()) as output):
            status = verdict.main()
        return status, output.getvalue().splitlines()

    def summary(self) -> str:
        return json.loads((self.run_dir / 'summary.json').read_text())['verdict']


class Logs(Runs):
    def test_good(self):
        for name in ('good', 'good-debug'):
            self.use(name)
            rows, failures = self.judge()
            self.assertEqual(failures, [])
            self.assertGreaterEqual(sum(row.passed for row in rows), 5)

    def test_skip_is_no_pass(self):
        self.use('good')
        rows, _ = self.judge()
        igb = next(row for row in rows if row.device == 'igb')
        self.assertEqual((igb.passed, len(igb.failures)), (0, 0))
        self.assertRegex(igb.skips[0], 'QEMU .* has no igb')

    def test_recorded(self):
        for name, patterns in {
            'kasan': ['whole: KASAN', 'lab taint: kernel taint is 32', 'lab lockdep: .*turned itself off'],
            'warn': [r'whole: WARN\(\)', 'lab taint: kernel taint is 512'],
            'panic': ['whole: kernel panic', 'misbehave panic: did not finish', 'KTAP log is truncated',
                      'console log is truncated'],
            'lockdep': ['whole: lockdep: unbalanced locking', 'lab lockdep: lockdep has turned itself off'],
            'hang': ['guest hung in "misbehave hang": stopped after', 'misbehave hang: (did not finish|result)'],
            'timeout': ['misbehave hang: TIMEOUT 3 seconds', '1 of 1 results are missing'],
            'taint': ['lab taint: kernel taint is 64'],
            'unbind': ['lab device edu: .* is bound to no driver, not vfio-pci'],
            'remove': ['lab device edu: there is no device at'],
            'hidden': ['says ok over a failed subtest'],
            'skip': ['the skip: skipped without a reason'],
            'exit4': ['misbehave exit4: skipped without a reason'],
            'silent': ['misbehave silent: reported no tests'],
            'short': ['misbehave short: 2 of 3 results are missing'],
        }.items():
            with self.subTest(name):
                self.use(name)
                self.assert_red(*patterns)

    def test_silence_is_no_pass(self):
        self.use('silent')
        rows, _ = self.judge()
        self.assertEqual((rows[0].name, rows[0].passed, rows[0].cases), ('misbehave silent', 0, 0))

    def test_cases_are_counted(self):
        self.use('good')
        rows, _ = self.judge()
        self.assertEqual([(row.passed, row.failed, row.cases) for row in rows[:3]], [(5, 0, 5), (4, 0, 5), (0, 0, 0)])
        # A suite is none, and one without a name is none the less.
        self.edit('ktap.log', lambda text: re.sub('  ok 5 dma.*', '''\
    KTAP version 1
    # Subtest: dma
    1..2
    ok 1 there
    not ok 2 back
  not ok 5 dma''', re.sub('  ok 5 vfio.*(# SKIP.*)', r'  ok 5 \1', text)))
        rows, _ = self.judge()
        self.assertEqual([(row.passed, row.failed, row.cases) for row in rows[:3]], [(5, 1, 6), (4, 0, 5), (0, 0, 0)])

    def test_ktap_cut_anywhere(self):
        self.use('good')
        whole = (self.run_dir / 'ktap.log').read_text()
        for size in range(0, len(whole) - 1, 7):
            (self.run_dir / 'ktap.log').write_text(whole[:size])
            self.assert_red('KTAP log is (truncated|empty)')

    def test_no_line_of_ktap_can_be_lost(self):
        self.use('good')
        lines = (self.run_dir / 'ktap.log').read_text().splitlines(keepends=True)
        for index, line in enumerate(lines):
            # Of the two lines that open a nested test one is enough.
            if re.match(r' *#| +KTAP version', line) and line != '# lab: end\n':
                continue
            (self.run_dir / 'ktap.log').write_text(''.join(lines[:index] + lines[index + 1:]))
            self.assertNotEqual(self.judge()[1], [], f'lost unseen: {line}')

    def test_no_ok_can_become_not_ok(self):
        self.use('good')
        text = (self.run_dir / 'ktap.log').read_text()
        for match in re.finditer(r'^ *ok', text, re.M):
            (self.run_dir / 'ktap.log').write_text(
                text[:match.end() - 2] + 'not ok' + text[match.end():])
            self.assertNotEqual(self.judge()[1], [], match)

    def test_ktap_corrupted(self):
        self.use('good')
        self.edit('ktap.log', lambda text: text.replace('  ok 2', '  o\x00k 2', 1))
        self.assert_red('KTAP log is corrupted')

    def test_ktap_cut_by_kernel_log(self):
        self.use('good')
        self.edit('ktap.log', lambda text: text.replace('  ok 2', 'vfio-pci 0000:01:00.0: reset done\n  ok 2', 1))
        self.assert_red('KTAP log is corrupted')

    def test_expected_failure(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub('(  ok 2 .*)', r'\1 # XFAIL known', text, count=1))
        self.assert_red('an expected failure is neither pass nor skip')

    def test_console_truncated(self):
        self.use('good')
        self.edit('console.log', lambda text: text[:text.rindex('reboot')])
        self.assert_red('console log is truncated')

    def test_console_without_banner(self):
        self.use('good')
        self.edit('console.log', lambda text: text.split('\n', 1)[1])
        self.assert_red('no boot banner')

    def test_empty_or_no_logs(self):
        for name in ('console', 'ktap'):
            self.use('good')
            self.edit(f'{name}.log', lambda text: '')
            self.assert_red('log is empty')
            (self.run_dir / f'{name}.log').unlink()
            self.assert_red('log is empty')

    def test_program_missing(self):
        self.use('good')
        self.edit('plan', lambda text: text + 'edu vfio:vfio_new_test\n')
        self.assert_red('vfio_new_test: did not run')

    def test_program_unplanned(self):
        self.use('good')
        self.edit('plan', lambda text: text.replace('edu lab:edu_demo\n', ''))
        self.assert_red('"edu edu_demo" is in the KTAP log but not in the plan')

    def test_lockdep_not_checked(self):
        self.use('good-debug')
        self.edit('ktap.log', lambda text: re.sub(r'ok \d+ lab lockdep\n', '', text))
        self.assert_red('lab lockdep: did not run')

    def test_pat_not_checked(self):
        self.use('good')
        self.edit_info(pat=True)
        self.assert_red('lab pat: did not run')

    def test_kmemleak_not_checked(self):
        self.use('good-debug')
        self.edit_info(kmemleak=True)
        self.assert_red('lab kmemleak: did not run')
        self.edit('ktap.log', lambda text: text.replace('1..4', '1..5').replace(
            'ok 4 lab lockdep\n', 'ok 4 lab lockdep\n# lab: reason=2 leaked\nnot ok 5 lab kmemleak\n'))
        self.assert_red('lab kmemleak: 2 leaked')
        self.edit('ktap.log', lambda text: text.replace('not ok 5', 'ok 5'))
        self.assertEqual(self.judge()[1], [])

    def test_qemu_died(self):
        self.use('good')
        self.edit_info(qemu_status=137)
        self.assert_red('QEMU ended with status 137')
        self.edit_info(qemu_status=124)
        self.assert_red('guest hung in no test: stopped after 900 seconds')

    def test_x2apic(self):
        self.use('good')
        self.edit_info(x2apic=True)
        self.assert_red('the CPUs had no x2APIC')
        for said in ('x2apic disabled', "x2apic: IRQ remapping doesn't support X2APIC mode"):
            self.edit('console.log', lambda text: text.replace('\n', f'\n{said}\n', 1))
            self.assert_red('the CPUs had no x2APIC')
        for said in ('x2apic enabled', 'x2apic: enabled by BIOS, switching to x2apic ops'):
            self.edit('console.log', lambda text: text.replace('\n', f'\n{said}\n', 1))
            self.assertEqual(self.judge()[1], [])
            self.edit('console.log', lambda text: text.replace(f'{said}\n', ''))

    def test_run_without_a_key(self):
        for key in verdict.RUN_KEYS:
            for value in (None, ''):
                self.use('good')
                self.edit_info(**{key: value})
                self.assertEqual(self.judge()[1], [f'run as a whole: run.json does not say "{key}"'])

    def test_run_that_cannot_be_read(self):
        for text in ('', '[]', '{"kernel": "fast"'):
            self.use('good')
            (self.run_dir / 'run.json').write_text(text)
            self.assert_red('run as a whole: run.json cannot be read')
        (self.run_dir / 'run.json').unlink()
        self.assert_red('run as a whole: run.json cannot be read')

    def test_plan_is_empty(self):
        self.use('good')
        (self.run_dir / 'plan').write_text('')
        (self.run_dir / 'ktap.log').write_text('KTAP version 1\n1..1\nok 1 lab taint\n# lab: end\n')
        self.assert_red('the plan is empty')

    def test_device_not_checked(self):
        self.use('good')
        self.edit('ktap.log', lambda text: text.replace('ok 4 lab device edu\n', ''))
        self.assert_red('lab device edu: did not run')

    def test_console_of_two_boots(self):
        self.use('good')
        self.edit('console.log', lambda text: text.replace('reboot: Power down', text + 'reboot: Power down'))
        self.assert_red('2 boot banners: the guest rebooted')

    def test_splat_anywhere(self):
        self.use('good')
        lines = (self.run_dir / 'console.log').read_text().splitlines()
        for line, reason in SPLATS:
            # The last of them after the guest has powered off.
            for index in range(len(lines) + 1):
                text = [*lines[:index], line, *lines[index:]]
                (self.run_dir / 'console.log').write_text('\n'.join(text) + '\n')
                self.assert_red(f'whole: {re.escape(reason)} ')

    def test_ktap_damaged(self):
        """Each of them once: pattern, what it is replaced with, and what is said about it."""
        for pattern, damage, said in [
            # The program is not in the guest, or was killed by its death.
            (r'  KTAP version 1\n  # Subtest: edu edu_demo\n(  .*\n)+(# lab: seconds.*\n)ok 1',
             r'\2# lab: reason=exit=127\nnot ok 1', 'edu_demo: exit=127'),
            # It crashed before its plan, or after two results.
            (r'(# Subtest: edu edu_demo\n)(  .*\n)+(# lab: seconds.*\n)ok 1',
             r'\1\3# lab: reason=exit=139\nnot ok 1', 'edu_demo: exit=139'),
            (r'  ok 3 fac(.*\n  )+# Totals.*\n(# lab: seconds.*\n)ok 1', r'\2not ok 1',
             'edu_demo: 3 of 5 results are missing'),
            # Without its first line
            (r'^KTAP version 1\n', '', 'KTAP log has lost its first line'),
            # What the kernel or a terminal says
            (r'# Vendor', '# \x07Vendor', 'KTAP log is corrupted'),
            # Without a plan; with one of nothing, of too many, of too few
            (r'  1\.\.5\n', '', 'edu_demo: has no plan'),
            (r'  1\.\.5\n(  .*\n)+?# lab', '  1..0\n# lab', 'edu_demo: reported no tests'),
            (r'  1\.\.5\n', '  1..6\n', 'edu_demo: 1 of 6 results are missing'),
            (r'  1\.\.5\n', '  1..4\n', 'KTAP parser: .*edu edu_demo: missing subtest result line'),
            # Numbers
            (r'  ok 2', '  ok', 'KTAP log is corrupted'),
            (r'  ok 2', '  ok 1', 'Expected test number 2 but found 1'),
            # What the exit code says, and the results
            (r'\nok 1 edu', '\n# lab: reason=exit=1\nnot ok 1 edu', 'edu_demo: exit=1'),
            (r'  ok 2((.*\n)+?)ok 1 edu edu_demo', r'  not ok 2\1ok 1 edu edu_demo # SKIP no',
             'edu_demo: liveness.*: failed'),
            # Others
            (r'validate_bars\n  ok 2 .*', r'\g<0> # TODO', 'an expected failure is neither pass nor skip'),
            (r'  ok 3 fac', '  not ok 3 # SKIP fac', 'an expected failure is neither pass nor skip'),
            (r'# lab: end\n', '\\g<0>ok 6 more\n', 'KTAP log is truncated'),
            (r'reset\n  ok 3 .*', 'reset\n  ok 3 vfio_pci_device_test.validate_bars',
             'vfio_pci_device_test: "vfio_pci_device_test.validate_bars" is reported 2 times'),
        ]:
            with self.subTest(f'{pattern} -> {damage}'):
                self.use('good')
                self.edit('ktap.log', lambda text: re.sub(pattern, damage, text, count=1))
                self.assert_red(said)


class Pins(Runs):
    def check(self, *args: str) -> list[str]:
        """All that is red of a run that is to be as pinned."""
        status, output = self.main('--expected', self.pins, *args, 'DIR')
        self.assertEqual(self.summary(), 'red' if status else 'green')
        self.assertRegex(output[-1], r'^\d+ passed, \d+ failed, \d+ skipped$')
        self.assertEqual(bool(status), ', 0 failed,' not in output[-1])
        self.assertEqual(bool(status), 'failures:' in output)
        # That is how to change them.
        hint = f'scripts/verdict.py {"--part " * ("--part" in args)}--record {self.pins} {self.run_dir}'
        self.assertEqual(bool(status), any(line.endswith(hint) for line in output))
        return output[output.index('failures:') + 1:] if status else []

    def skip(self, case: str) -> None:
        self.edit('ktap.log', lambda text: re.sub(
            rf'^(  ok \d+ {case}.*)', r'\1 # SKIP The kernel does not map DMABUFs', text, flags=re.M))

    def test_as_pinned(self):
        self.use('good')
        self.assertEqual(self.check(), [])
        self.assertEqual(self.check('--part'), [])
        self.pins.write_text(PINS.replace('it\n', 'it\n\n'))
        self.assertEqual(self.check(), [])
        self.assertNotIn('notes:', self.main('--expected', self.pins, 'DIR')[1])

    def test_every_case_skips(self):
        self.use('good')
        self.skip('[a-z]+: ')
        self.assert_says(self.check(), f'  edu edu_demo: passed 0, but 5 are pinned in {self.pins}$')

    def test_every_case_of_every_program_skips(self):
        self.use('good')
        self.skip(r'(?!.*SKIP)')
        self.assert_says(self.check(), 'edu_demo: passed 0, but 5', 'vfio_pci_device_test: passed 0, but 4')

    def test_one_case_skips(self):
        self.use('good')
        self.skip('vfio_pci_device_test.reset')
        self.assert_says(self.check(), 'edu vfio_pci_device_test: passed 3, but 4')

    def test_program_skips(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub(
            r'  KTAP version 1\n  # Subtest: edu edu_demo\n(  .*\n)+(.*\nok 1 .*)', r'\2 # SKIP no DMABUF', text))
        self.assert_says(self.check(), 'edu edu_demo: passed 0, but 5')

    def test_device_skips(self):
        self.use('good')
        self.edit('devices', lambda text: re.sub('^edu .*', 'edu - QEMU has no edu', text))
        self.edit('ktap.log', lambda text: 'KTAP version 1\n1..4\n' + ''.join(
            f'# lab: start={name}\nok {number} {name} # SKIP QEMU has no such device\n' for number, name in enumerate(
                ('edu edu_demo', 'edu vfio_pci_device_test', 'igb vfio_pci_device_test'), 1)) +
            'ok 4 lab taint\n# lab: end\n')
        self.assertEqual(self.judge()[1], [])
        self.assert_says(self.check(), 'edu_demo: passed 0', 'edu vfio_pci_device_test: passed 0')

    def test_cases_are_gone(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub(r'  (ok [45] (int|dma).*|# Totals.*)\n', '', text).replace(
            '1..5\n  # 0000', '1..3\n  # 0000'))
        self.assertEqual(self.judge()[1], [])
        self.assert_says(self.check(), 'edu edu_demo: passed 3, but 5 are pinned')

    def test_case_that_skips_is_gone(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub(r'  ok 5 vfio.*\n', '', text).replace(
            '1..5\n  # Start', '1..4\n  # Start'))
        self.assertEqual(self.judge()[1], [])
        self.assert_says(self.check(), 'edu vfio_pci_device_test: has 4 cases, but 5 are pinned')

    def test_what_failed_is_red_once(self):
        self.use('good')
        self.break_case('edu edu_demo', 'liveness')
        status, output = self.main('--expected', self.pins, 'DIR')
        self.assertEqual((status, output[-1]), (1, '12 passed, 1 failed, 2 skipped'))
        # One that skips as well
        self.skip('factorial')
        self.assert_says(self.check(), 'edu_demo: passed 3 and failed 1, but 5 are pinned')

    def test_what_crashed_is_red_once(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub(
            r'  ok 3 fac(.*\n  )+# Totals.*\n(.*\n)ok 1', r'\2not ok 1', text, count=1))
        rows, failures = self.judge()
        pins = verdict.check_pins(rows, self.pins, False)
        self.assertEqual(pins.failures, [])
        self.assertEqual([f'{row.name}: {why}' for row in rows for why in row.failures], failures)
        self.assertEqual((rows[0].passed, rows[0].failed, rows[0].cases), (2, 3, 5))

    def test_died_before_its_first_case(self):
        self.use('good')
        self.edit('ktap.log', lambda text: re.sub(
            r'  KTAP version 1\n  # Subtest: edu edu_demo\n(  .*\n)+(.*\n)ok 1', r'\2not ok 1', text))
        rows, failures = self.judge()
        verdict.check_pins(rows, self.pins, False)
        self.assertEqual([f'{row.name}: {why}' for row in rows for why in row.failures], failures)

    def test_row_is_not_pinned(self):
        self.use('good')
        self.pins.write_text(re.sub('.*edu_demo\n', '', PINS))
        for args in ((), ('--part',)):
            self.assert_says(self.check(*args), 'edu edu_demo: is not pinned in')

    def test_pinned_row_is_not_in_the_plan(self):
        self.use('good')
        self.pins.write_text(PINS + '3/3 - kunit vfio_pci_mmap\n')
        self.assert_says(self.check(), '- pins: "- kunit vfio_pci_mmap" is pinned in .*, but not in the plan')
        self.assertEqual(self.check('--part'), [])

    def test_more_is_fine(self):
        self.use('good')
        self.pins.write_text(PINS.replace('5/5', '4/4'))
        status, output = self.main('--expected', self.pins, 'DIR')
        self.assertEqual(status, 0)
        notes = output[output.index('notes:') + 1:]
        self.assertEqual(notes[0], f'  edu edu_demo: passed 5, which is more than the 4 pinned in {self.pins}')

    def test_pins_that_cannot_be_read(self):
        self.use('good')
        for text in (PINS + 'edu edu_demo\n', PINS + '6/5  edu other\n', PINS + '5/5  edu  edu_demo\n',
                     PINS + '<<<<<<< mine\n', PINS + '# a comment further down\n', PINS + '5/5 edu\n'):
            self.pins.write_text(text)
            self.assert_says(self.check(), f'- pins: nothing is pinned in {self.pins}: line 6 ')
            status, output = self.main('--record', self.pins, 'DIR')
            self.assertEqual((status, self.pins.read_text()), (1, text))
            self.assertRegex(output[-2], f'^not recorded in {self.pins}: line 6 ')
        self.pins.write_text(f'words\n{PINS}')
        self.assert_says(self.check(), 'line 1 is no')
        self.pins.unlink()
        self.assert_says(self.check('--part'), 'nothing is pinned in .*No such file')

    def test_record(self):
        self.use('good')
        self.pins.write_text(PINS.replace('5/5', '1/1').replace('4/5  edu', '9/9  nvme'))
        status, output = self.main('--record', self.pins, 'DIR')
        self.assertEqual((status, output[-2]), (0, f'recorded 3 rows in {self.pins}'))
        self.assertEqual(self.pins.read_text(), PINS)

    def test_record_a_part(self):
        self.use('good')
        self.pins.write_text(PINS.replace('5/5', '1/1') + '    9/9  nvme vfio_pci_device_test\n')
        self.assertEqual(self.main('--record', self.pins, '--part', 'DIR')[0], 0)
        self.assertEqual(self.pins.read_text(), PINS + '    9/9  nvme vfio_pci_device_test\n')

    def test_record_a_new_file(self):
        self.use('good')
        new = self.pins.parent / 'expected/new'
        self.assertEqual(self.main('--record', new, 'DIR')[0], 0)
        header, pins = verdict.read_pins(new)
        self.assertEqual((header, len(pins)), (verdict.PINS_HEADER, 3))
        self.assertEqual(self.main('--expected', new, 'DIR')[0], 0)

    def test_nothing_is_recorded_from_a_red_run(self):
        self.use('good')
        good = self.run_dir
        self.use('hidden')
        self.pins.unlink()
        status, output = self.main('--record', self.pins, good, 'DIR')
        self.assertEqual((status, self.pins.exists()), (1, False))
        self.assertIn(f'not recorded in {self.pins}: a red run pins nothing', output)

    def test_shards(self):
        self.use('good')
        first = self.run_dir
        self.use('good-debug')
        status, output = self.main('--record', self.pins, first, 'DIR')
        self.assertEqual((status, self.pins.read_text()), (0, PINS))
        self.assertEqual(output[-1], '21 passed, 0 failed, 2 skipped')
        # What is in both: as little as in one of them.
        self.edit('ktap.log', lambda text: text.replace('IOVA 0x201000', 'IOVA 0x201000 # SKIP no'))
        self.assertEqual(self.main('--record', self.pins, first, 'DIR')[0], 0)
        self.assertEqual(self.pins.read_text(), PINS.replace('5/5', '4/5'))
        # Together they are the plan, and the second alone is not.
        self.assertEqual(self.main('--expected', self.pins, first, 'DIR')[0], 0)
        self.assertEqual(self.main('--expected', self.pins, '--part', 'DIR')[0], 0)
        self.assertEqual(self.main('--expected', self.pins, 'DIR')[0], 1)

    def test_one_of_two_shards_is_red(self):
        self.use('good')
        first = self.run_dir
        self.use('good-debug')
        self.edit_info(qemu_status=1)
        status, output = self.main(first, 'DIR')
        self.assertEqual((status, self.summary()), (1, 'red'))
        self.assertEqual(output[-2], f'logs: {self.run_dir}/console.log {self.run_dir}/ktap.log')
        self.assertNotIn(f'logs: {first}', '\n'.join(output))
        self.run_dir = first
        self.assertEqual(self.summary(), 'green')


class Report(Runs):
    def test_table(self):
        self.use('good')
        self.edit('ktap.log', lambda text: text.replace('  ok 2 live', '  not ok 2 live'))
        output = self.main('DIR')[1]
        self.assertEqual(output[:4], [
            'test                 | device |  pass |  fail |  skip | seconds',
            'edu_demo             | edu    |     4 |     2 |     0 |     0.5',
            'vfio_pci_device_test | edu    |     4 |     0 |     1 |     0.1',
            'vfio_pci_device_test | igb    |     0 |     0 |     1 |     0.0'])

    def test_exit_code(self):
        self.use('good')
        for status in (0, 1):
            for command, code in ((['verdict.py', '--tree', TREE, self.run_dir], status),
                                  (['mutant_verdict.py', self.run_dir, 'killed', '--plan', '- kunit vfio_pci_mmap',
                                    '--killed-by', 'panic'], 0),
                                  # This one cannot judge.
                                  (['mutant_verdict.py', self.run_dir, 'killed'], 2)):
                result = subprocess.run([sys.executable, HERE.parent / command[0], *command[1:]],
                                        capture_output=True, check=False)
                self.assertEqual(result.returncode, code, command)
                self.assertEqual(bool(result.stdout), code < 2, command)
            self.edit_info(qemu_status=1)

    def test_last_lines(self):
        self.use('good')
        status, output = self.main('DIR')
        self.assertEqual((status, self.summary()), (0, 'green'))
        self.assertEqual(output[-2:], ['', '12 passed, 0 failed, 2 skipped'])
        self.edit_info(qemu_status=1)
        status, output = self.main('DIR')
        self.assertEqual((status, self.summary()), (1, 'red'))
        self.assertEqual(output[-2:], [f'logs: {self.run_dir}/console.log {self.run_dir}/ktap.log',
                                       '11 passed, 1 failed, 2 skipped'])

    def test_races(self):
        self.use('good')
        self.assertNotIn('races:', self.main('DIR')[1])
        self.edit('ktap.log', lambda text: text.replace(
            '  # Vendor:', '  # races: memory_decode 100 rounds\n  # races: reset 7 rounds\n  # Vendor:'))
        output = self.main('DIR')[1]
        races = output[output.index('races:') + 1:]
        self.assertEqual(races[:3], ['  edu vfio_pci_device_test: memory_decode 100 rounds',
                                     '  edu vfio_pci_device_test: reset 7 rounds', ''])


class Mutants(Runs):
    PLAN = ['edu vfio:vfio_pci_device_test']
    CASE = 'vfio_pci_device_test.reset'

    def problems(self, wanted: str, plan: list[str], *killers: str) -> list[str]:
        self.main('DIR')
        command = ['mutant_verdict.py', str(self.run_dir), wanted, '--plan', *plan, '--killed-by', *killers]
        with (unittest.mock.patch('sys.argv', command),
              contextlib.redirect_stdout(io.StringIO()) as output):
            self.assertEqual(mutant_verdict.main(), 0)
        return output.getvalue().splitlines()

    def test_control(self):
        self.use('good')
        self.assertEqual(self.problems('ok', self.PLAN, self.CASE), [])
        self.assertEqual(self.problems('ok', self.PLAN, 'panic'), [])
        self.assertEqual(self.problems('ok', self.PLAN, 'splat lockdep', self.CASE), [])

    def test_control_is_worth_nothing(self):
        self.use('good')
        skipped = 'vfio_pci_irq_test.msix.enable_trigger_disable'
        self.assertEqual(self.problems('ok', self.PLAN, skipped), [f'{skipped}: is skipped'])
        self.assertEqual(self.problems('ok', self.PLAN, 'other'), ['other: is not in the log'])
        # The case of another row
        self.assertEqual(self.problems('ok', ['edu lab:edu_demo'], self.CASE), [f'{self.CASE}: is not in the log'])
        for killer in ('panic', 'splat lockdep'):
            self.assertEqual(self.problems('ok', ['igb vfio:vfio_pci_device_test'], killer),
                             ['nothing passes in igb vfio_pci_device_test'])

    def test_killed_by_a_case(self):
        self.use('good')
        self.break_case('edu vfio_pci_device_test', self.CASE)
        self.assertEqual(self.problems('killed', self.PLAN, self.CASE), [])

    def test_killed_by_another_case(self):
        self.use('good')
        self.break_case('edu vfio_pci_device_test', 'vfio_pci_device_test.validate_bars')
        self.assertEqual(self.problems('killed', self.PLAN, self.CASE), [f'{self.CASE}: is ok'])
        self.assertEqual(self.problems('killed', self.PLAN, 'panic'), ['the kernel did not die'])
        self.assertEqual(self.problems('killed', self.PLAN, 'splat .'), ['nothing about "." in the run as a whole'])

    def test_killed_by_a_case_and_more(self):
        self.use('good')
        self.break_case('edu vfio_pci_device_test', self.CASE)
        self.edit('console.log', lambda text: text + 'BUG: KASAN: use-after-free in foo\n')
        problems = self.problems('killed', self.PLAN, self.CASE)
        self.assertEqual([problem[:7] for problem in problems], ['KASAN: '])
        # Where that is what kills it, the case has to fail none the less.
        self.assertEqual(self.problems('killed', self.PLAN, self.CASE, 'splat KASAN'), [])
        self.assertEqual(self.problems('killed', self.PLAN, 'vfio_pci_device_test.validate_bars', 'splat KASAN'),
                         ['vfio_pci_device_test.validate_bars: is ok'])

    def test_killed_by_what_is_no_case(self):
        self.use('timeout')
        self.assertEqual(self.problems('killed', ['- lab:misbehave hang'], 'the case')[0],
                         'the case: is not in the log')
        self.assertIn('misbehave hang: TIMEOUT 3 seconds',
                      self.problems('killed', ['- lab:misbehave hang'], 'the case'))
        self.assertIn('edu other: not in the verdict', self.problems('killed', ['edu other'], 'the case'))

    def test_killed_by_a_panic(self):
        self.use('panic')
        self.assertEqual(self.problems('killed', ['- misbehave panic'], 'panic'), [])
        self.assertEqual(self.problems('killed', ['edu edu_demo'], 'panic'),
                         ['the kernel died, but not in a test of the plan'])
        self.assertEqual(self.problems('killed', ['- misbehave panic'], 'splat kernel panic'), [])

    def test_killed_by_a_splat(self):
        for name, regex in (('lockdep', 'lockdep'), ('kasan', '^KASAN'), ('warn', r'WARN\(\)')):
            self.use(name)
            self.assertEqual(self.problems('killed', [f'- misbehave {name}'], f'splat {regex}'), [])
            self.assertEqual(self.problems('killed', [f'- misbehave {name}'], 'splat memory leak'),
                             ['nothing about "memory leak" in the run as a whole'])

    def test_no_verdict(self):
        self.use('good')
        self.assertEqual(list(mutant_verdict.problems(self.run_dir, 'killed', self.PLAN, [self.CASE])),
                         ['the boot did not come to a verdict'])


if __name__ == '__main__':
    unittest.main()
