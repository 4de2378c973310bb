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
    (r'general protection fault', 'general protection fault'),
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
    (r'\brcu.*\b(stall|stalls)\b', 'RCU stall'),
    (r'soft lockup', 'soft lockup'),
    (r'(?i)hard lockup', 'hard lockup'),
    (r'workqueue lockup', 'workqueue lockup'),
    (r'list_(add|del)( \w+)? corruption', 'list corruption'),
    (r'refcount_t: ', 'reference count error'),
    (r'ODEBUG: ', 'ODEBUG: object lifetime error'),
    (r'\bBUG \S+ \(', 'slab corruption'),
    (r'unreferenced object', 'memory leak'),
    (r'page allocation failure|Out of memory', 'out of memory'),
    (r'irq \d+: nobody cared', 'unhandled interrupt'),
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
    if not any(BANNER.search(line) for line in lines):
        problems.append('console log has no boot banner: it cannot be judged')
    if not any(POWERED_OFF.search(line) for line in lines):
        problems.append('console log is truncated: the guest did not power off')
    return problems
