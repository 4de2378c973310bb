#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Does the verdict see what it must see?  Real logs (record.sh makes them) and
what can befall a real log; each bad one must be red for its own reason.

usage: verdict_test.py, with the kernel tree in $LAB_TREE or build/linux
"""

import os
import re
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import splats  # noqa: E402
import verdict  # noqa: E402

TREE = Path(os.environ.get('LAB_TREE', HERE.parents[1] / 'build/linux'))

# Lines as kernels print them, and the problem each must be taken for.
SPLATS = [
    ('Kernel panic - not syncing: dumptest', 'kernel panic'),
    ('BUG: KASAN: slab-use-after-free in foo+0x1/0x2', 'KASAN: invalid memory access'),
    ('BUG: KFENCE: use-after-free read in foo+0x1/0x2', 'memory or data race sanitizer report'),
    ('UBSAN: shift-out-of-bounds in drivers/foo.c:1:2', 'UBSAN: undefined behaviour'),
    ('Oops: general protection fault, probably for non-canonical address', 'general protection fault'),
    ('kernel BUG at mm/foo.c:12!', 'BUG()'),
    ('BUG: unable to handle page fault for address: ffff', 'bad kernel memory access'),
    ('Unable to handle kernel paging request at virtual address', 'bad kernel memory access'),
    ('WARNING: possible circular locking dependency detected', 'lockdep: possible deadlock'),
    ('WARNING: possible recursive locking detected', 'lockdep: possible deadlock'),
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
    ('rcu: INFO: rcu_preempt self-detected stall on CPU', 'RCU stall'),
    ('watchdog: BUG: soft lockup - CPU#0 stuck for 22s!', 'soft lockup'),
    ('watchdog: Watchdog detected hard LOCKUP on cpu 0', 'hard lockup'),
    ('BUG: workqueue lockup - pool cpus=0', 'workqueue lockup'),
    ('list_add corruption. prev->next should be next', 'list corruption'),
    ('refcount_t: underflow; use-after-free.', 'reference count error'),
    ('ODEBUG: free active (active state 0) object', 'ODEBUG: object lifetime error'),
    ('BUG kmalloc-64 (Not tainted): Poison overwritten', 'slab corruption'),
    ('unreferenced object 0xffff888000000000 (size 64):', 'memory leak'),
    ('cat: page allocation failure: order:0, mode:0x0', 'out of memory'),
    ('Out of memory: Killed process 12 (cat)', 'out of memory'),
    ('irq 16: nobody cared (try booting with the "irqpoll" option)', 'unhandled interrupt'),
    ('** 12 printk messages dropped **', 'kernel log lost messages'),
    ('Oops: invalid opcode: 0000 [#1] SMP', 'oops'),
    ('Internal error: synchronous external abort', 'oops'),
    ('WARNING: drivers/foo.c:12 at foo+0x1/0x2, CPU#0: cat/12', 'WARN()'),
    ('BUG: spinlock bad magic on CPU#0, cat/12', 'BUG'),
    ('------------[ cut here ]------------', 'report'),
    ('Call Trace:', 'stack trace'),
    ('Call trace:', 'stack trace'),
]


def classify(line: str, denylist: list[tuple[str, str]]) -> str:
    return next((reason for pattern, reason in denylist if re.search(pattern, line)), '')


class Denylist(unittest.TestCase):
    def test_every_sample_is_taken_for_what_it_is(self):
        for line, reason in SPLATS:
            self.assertEqual(classify('[    1.234567] ' + line, splats.DENYLIST), reason, line)

    def test_no_entry_can_be_removed_unseen(self):
        for entry in splats.DENYLIST:
            rest = [other for other in splats.DENYLIST if other != entry]
            self.assertTrue(any(classify(line, rest) != reason for line, reason in SPLATS),
                            f'no sample needs {entry}')

    def test_no_alternative_can_be_removed_unseen(self):
        for index, (pattern, reason) in enumerate(splats.DENYLIST):
            for part in pattern.split('|') if '(' not in pattern else []:
                less = '|'.join(p for p in pattern.split('|') if p != part) or r'(?!)'
                rest = [*splats.DENYLIST[:index], (less, reason), *splats.DENYLIST[index + 1:]]
                self.assertTrue(any(classify(line, rest) != why for line, why in SPLATS),
                                f'no sample needs "{part}"')


class Logs(unittest.TestCase):
    """Each test gets a copy of a recorded run, which it may damage."""

    def use(self, name: str) -> None:
        self.run_dir = Path(tempfile.mkdtemp()) / 'run'
        self.addCleanup(shutil.rmtree, self.run_dir.parent)
        shutil.copytree(HERE / 'logs' / name, self.run_dir)

    def edit(self, file: str, change) -> None:
        path = self.run_dir / file
        before = path.read_text()
        after = change(before)
        self.assertNotEqual(before, after, 'the damage did no damage')
        path.write_text(after)

    def judge(self) -> tuple[list, list[str]]:
        rows = verdict.judge(self.run_dir, TREE)
        return rows, [f'{row.name}: {why}' for row in rows for why in row.failures]

    def assert_red(self, *patterns: str) -> None:
        _, failures = self.judge()
        for pattern in patterns:
            self.assertTrue(any(re.search(pattern, why) for why in failures),
                            f'nothing about "{pattern}" in {failures}')

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

    def test_qemu_died(self):
        self.use('good')
        self.edit('run.json', lambda text: text.replace('"qemu_status": 0', '"qemu_status": 134'))
        self.assert_red('QEMU ended with status 134')


if __name__ == '__main__':
    unittest.main()
