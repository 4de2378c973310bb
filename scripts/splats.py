# SPDX-License-Identifier: GPL-2.0-only
"""Judge a kernel log.  A log that cannot be judged is a problem, too."""

from __future__ import annotations

import re

# What no kernel log of a green run may have.  The first match names the
# problem, so the particular comes before the general.
DENYLIST: list[tuple[str, str]] = [
    (r'Kernel panic - not syncing', 'kernel panic'),
    (r'KASAN: ', 'KASAN: invalid memory access'),
    (r'\b(KFENCE|KMSAN|KCSAN): ', 'memory or data race sanitizer report'),
    (r'UBSAN: ', 'UBSAN: undefined behaviour'),
    # Also of a program of the guest, whose tests might say that all is well.
    (r'segfault at |\btraps: |\]: unhandled exception: ', 'a program crashed'),
    (r'general protection fault', 'general protection fault'),
    (r'(kernel BUG at|WARNING:) mm/page_table_check\.c', 'page_table_check: page mapped in a wrong way'),
    (r'\bbad (pte|pmd|pud|p4d|pgd) ', 'corrupt page table'),
    (r'kernel BUG at ', 'BUG()'),
    (r'(?i)unable to handle (kernel|page fault|an access)', 'bad kernel memory access'),
    (r'possible (circular locking dependency|recursive locking|irq lock inversion)',
     'lockdep: possible deadlock'),
    (r'inconsistent lock state|lock order detected', 'lockdep: irq-unsafe locking'),
    (r'bad unlock balance|held lock freed|lock held when returning|still has locks held',
     'lockdep: unbalanced locking'),
    (r'Invalid wait context', 'lockdep: sleeping lock in an atomic context'),
    (r'suspicious RCU usage', 'suspicious RCU usage'),
    (r'trying to register non-static key', 'lockdep: lock was never initialised'),
    (r'DEBUG_LOCKS_WARN_ON', 'lockdep: inconsistent state'),
    (r'lockdep is turned off|turning off the locking correctness validator|Disabling lock debugging',
     'lockdep turned itself off'),
    (r'sleeping function called from invalid context', 'sleep in atomic context'),
    (r'scheduling while atomic', 'schedule in atomic context'),
    (r'blocked for more than \d+ seconds', 'hung task'),
    (r'\brcu.*\b(stall|stalls|starved for|timer wakeup)\b', 'RCU stall'),
    (r'soft lockup', 'soft lockup'),
    (r'(?i)hard lockup', 'hard lockup'),
    (r'workqueue lockup', 'workqueue lockup'),
    (r'list_(add|del)( \w+)? corruption', 'list corruption'),
    (r'refcount_t: ', 'reference count error'),
    (r'ODEBUG: ', 'ODEBUG: object lifetime error'),
    (r'\bBUG \S+ \(', 'slab corruption'),
    (r'unreferenced object|kmemleak: \d+ new suspected', 'memory leak'),
    (r'kmemleak: Kernel memory leak detector disabled', 'kmemleak turned itself off'),
    (r'x86/PAT: .*(freeing invalid|conflicting memory types| failed |map pfn )', 'memory type conflict'),
    # All that it has to say but for how it starts, and grows.
    (r'DMA-API: (?!preallocated|debugging enabled|dma_debug_entry pool grown)', 'DMA-API: misuse, or not checked'),
    (r'not ready \d+ms after .*giving up|reset recovery - restoring BARs', 'device lost in a reset'),
    (r'AER: .*(Uncorrectable|Fatal|recovery failed)', 'PCIe error'),
    (r'arm-smmu-v3 .*(CMDQ error| timeout at |Q overflow)', 'IOMMU error'),
    (r'page allocation failure|Out of memory', 'out of memory'),
    (r'irq \d+: nobody cared|No irq handler for', 'unhandled interrupt'),
    (r'Busy inodes after unmount', 'inodes in use after unmount'),
    (r'messages dropped', 'kernel log lost messages'),
    (r'\bOops\b|Internal error: ', 'oops'),
    (r'\bWARNING: ', 'WARN()'),
    (r'\bBUG: ', 'BUG'),
    (r'-\[ cut here \]-', 'report'),
    (r'Call [Tt]race:', 'stack trace'),
]
BANNER = re.compile(r'\bLinux version \d')
POWERED_OFF = re.compile(r'reboot: Power down')


def find_splats(lines: list[str]) -> list[str]:
    """Each kind of problem once, with its first line and how often it is there."""
    compiled = [(re.compile(pattern), reason) for pattern, reason in DENYLIST]
    found: dict[str, tuple[int, str, int]] = {}
    for number, line in enumerate(lines, 1):
        reason = next((r for p, r in compiled if p.search(line)), None)
        if reason:
            first, text, count = found.get(reason, (number, line.strip(), 0))
            found[reason] = (first, text, count + 1)
    return [f'{reason} (console.log:{number}, {count} lines): {text}'
            for reason, (number, text, count) in found.items()]


def check_console(lines: list[str]) -> list[str]:
    if not any(lines):
        return ['console log is empty']
    problems = find_splats(lines)
    boots = sum(bool(BANNER.search(line)) for line in lines)
    if boots == 0:
        problems.append('console log has no boot banner: it cannot be judged')
    elif boots > 1:
        problems.append(f'console log has {boots} boot banners: the guest rebooted')
    if not any(POWERED_OFF.search(line) for line in lines):
        problems.append('console log is truncated: the guest did not power off')
    return problems
