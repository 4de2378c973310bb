#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Judge one run of boot.sh: green only where everything that was asked for ran
to its end, said so completely, and the kernel had nothing to complain about.

usage: verdict.py --tree LINUX DIR, where DIR has plan, devices, run.json,
console.log and ktap.log.  Writes DIR/summary.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from splats import check_console

END_OF_KTAP = '# lab: end'
# Every line that the guest writes, and nothing else.
KTAP_LINE = re.compile(r' *(#.*|KTAP version 1|TAP version 1[34]|1\.\.\d{1,5}( #.*)?|(not )?ok \d+ \S.*)?')
# What the test harness says about every test, and the guest about itself.
CHATTER = re.compile(r' *#( *lab:| +(RUN|OK|FAIL|SKIP) )')
# Reasons which the harness makes up where the test gave none.
NO_REASON = ('', 'unknown')


@dataclass
class Row:
    """One program of the plan, or one check of the lab."""
    name: str
    device: str = '-'
    passed: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)


def read_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding='ascii', errors='backslashreplace')
    return [line.rstrip('\r') for line in text.split('\n')]


def check_ktap_text(lines: list[str]) -> list[str]:
    if not any(lines):
        return ['KTAP log is empty']
    problems = []
    for number, line in enumerate(lines, 1):
        if not KTAP_LINE.fullmatch(line) or not line.isprintable():
            problems.append(f'KTAP log is corrupted (ktap.log:{number}): {line[:80]}')
        elif re.search(r'^ *(ok .* # (XFAIL|XPASS|TODO)|not ok .* # SKIP)', line):
            problems.append(f'an expected failure is neither pass nor skip (ktap.log:{number}): {line.strip()}')
    if lines[0] != 'KTAP version 1':
        problems.append('KTAP log has lost its first line')
    if lines[-1] != END_OF_KTAP:
        problems.append('KTAP log is truncated: it has no end marker')
    return problems


def note(test, key: str) -> str:
    """What the guest noted about a test in its "# lab: key=" line."""
    prefix = f'# lab: {key}='
    # Where results are missing, the parser takes the notes for theirs.
    log = test.log + [line for sub in test.subtests if not sub.name for line in sub.log]
    return next((line.removeprefix(prefix) for line in reversed(log) if line.startswith(prefix)), '')


def tally(test, row: Row, status, path: str = '') -> None:
    """Count the leaves below a test; what a test says about itself must hold."""
    said = f'{path}: ' if path else ''
    before = len(row.failures)
    reported = [sub for sub in test.subtests if sub.name or sub.status != status.TEST_CRASHED]
    for sub in reported:
        tally(sub, row, status, sub.name)
    if len(reported) < len(test.subtests):
        row.failures.append(f'{said}{len(test.subtests) - len(reported)} of '
                            f'{len(test.subtests)} results are missing')
    failed_below = len(row.failures) > before

    if test.subtests and test.expected_count is None:
        row.failures.append(f'{said}has no plan, so results may be missing')
    if test.status == status.SKIPPED:
        if test.skip_reason.strip() in NO_REASON:
            row.failures.append(f'{said}skipped without a reason')
        row.skips.append(f'{said}{test.skip_reason}')
    elif test.status == status.SUCCESS and failed_below:
        row.failures.append(f'{said}says ok over a failed subtest')
    elif test.status == status.SUCCESS:
        row.passed += not test.subtests
    elif test.status == status.NO_TESTS:
        row.failures.append(f'{said}reported no tests')
    else:
        why = note(test, 'reason') or '; '.join(
            line.strip(' #') for line in test.log[-4:] if not CHATTER.match(line))
        if test.subtests and failed_below:
            why = why.removeprefix('exit=1')
        if why or not failed_below:
            row.failures.append(f'{said}{why or "failed"}')


def expected_tests(run: Path, lockdep: bool) -> list[tuple[str, str, bool]]:
    """Name and device of everything that must report, and whether it is a program."""
    tests, bound = [], set()
    missing = {line.split()[0] for line in read_lines(run / 'devices') if ' - ' in line}
    for line in filter(None, read_lines(run / 'plan')):
        device, test, *args = line.split()
        name = ' '.join([test.split(':', 1)[-1], *args])
        tests.append((name if device == '-' else f'{device} {name}', device, True))
        bound |= set(device.split('+')) - missing - {'-'}
    tests += [(f'lab device {device}', device, False) for device in sorted(bound)]
    tests.append(('lab taint', '-', False))
    if lockdep:
        tests.append(('lab lockdep', '-', False))
    return tests


def running(lines: list[str]) -> str:
    """The test that was running when the log ended."""
    started = [line.removeprefix('# lab: start=') for line in lines if line.startswith('# lab: start=')]
    finished = [line for line in lines if re.match(r'(not )?ok ', line)]
    return started[-1] if len(started) > len(finished) else ''


def check_qemu(info: dict, where: str) -> list[str]:
    if info['qemu_status'] == 124:
        return [f'guest hung in {where}: stopped after {info["timeout"]} seconds']
    if info['qemu_status'] != 0:
        return [f'QEMU ended with status {info["qemu_status"]} in {where} (see qemu.log)']
    return []


def parse(lines: list[str], tree: Path):
    """What the kernel's own parser makes of it: result, its complaints, its constants."""
    sys.path.insert(0, str(tree / 'tools/testing/kunit'))
    import kunit_parser
    import kunit_printer

    complaints = []

    class Complaints(kunit_printer.Printer):
        def print_with_timestamp(self, message: str) -> None:
            if '[ERROR]' in message:
                complaints.append(message.split('Test: ', 1)[-1])

    # A corrupted line is a problem of its own, and could keep the parser busy for ever.
    main = kunit_parser.parse_run_tests(filter(KTAP_LINE.fullmatch, lines), Complaints(print=False))
    if main.expected_count is None:
        complaints.append('main: the plan is missing')
    return main, list(dict.fromkeys(complaints)), kunit_parser.TestStatus


def judge(run: Path, tree: Path) -> list[Row]:
    info = json.loads((run / 'run.json').read_text())
    lines = read_lines(run / 'ktap.log')
    while lines and not lines[-1]:
        lines.pop()
    main, complaints, status = parse(lines, tree)
    last = running(lines)
    rows = []
    results = list(main.subtests)
    for name, device, program in expected_tests(run, bool(info['lockdep'])):
        row = Row(name.removeprefix(f'{device} ') if program else name, device)
        rows.append(row)
        test = next((t for t in results if t.name.strip() == name), None)
        if test is None:
            row.failures.append('did not finish' if name == last else 'did not run, or its result is missing')
            continue
        results.remove(test)
        row.seconds = float(note(test, 'seconds') or 0)
        tally(test, row, status)
        if program and not test.subtests and test.status == status.SUCCESS:
            row.passed = 0
            row.failures.append('reported no tests')

    whole = Row('run as a whole')
    whole.failures += check_qemu(info, f'"{last}"' if last else 'no test')
    whole.failures += check_console(read_lines(run / 'console.log'))
    whole.failures += check_ktap_text(lines)
    whole.failures += [f'KTAP parser: {message}' for message in complaints]
    whole.failures += [f'"{t.name}" is in the KTAP log but not in the plan' for t in results if t.name]
    whole.passed = int(not whole.failures)
    return rows + [whole]


def report(rows: list[Row]) -> str:
    name, device = (max(len(getattr(row, key)) for row in rows) for key in ('name', 'device'))
    device = max(device, len('device'))
    lines = [f'{"test":{name}} | {"device":{device}} |  pass |  fail |  skip | seconds']
    lines += [f'{r.name:{name}} | {r.device:{device}} | {r.passed:5} | {len(r.failures):5} | '
              f'{len(r.skips):5} | {r.seconds:7.1f}' for r in rows]
    # Many tests skip for one reason; summary.json has them all.
    skips = Counter(f'{r.device} {r.name}: ' + re.sub(r'^\S+: ', '', why) for r in rows for why in r.skips)
    for title, reasons in (
            ('failures', [f'  {r.device} {r.name}: {why}' for r in rows for why in r.failures]),
            ('skips', [f'{count:5} x {why}' for why, count in skips.items()])):
        lines += ['', f'{title}:', *reasons] if reasons else []
    lines += ['', f'{sum(r.passed for r in rows)} passed, {sum(len(r.failures) for r in rows)} failed, '
              f'{sum(len(r.skips) for r in rows)} skipped']
    return '\n'.join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--tree', type=Path, required=True, help='kernel tree whose KTAP parser is used')
    parser.add_argument('run', type=Path)
    args = parser.parse_args()
    rows = judge(args.run, args.tree)
    red = any(row.failures for row in rows)
    (args.run / 'summary.json').write_text(json.dumps(
        {'verdict': 'red' if red else 'green', 'tests': [vars(row) for row in rows]}, indent=1) + '\n')
    print(report(rows))
    return int(red)


if __name__ == '__main__':
    sys.exit(main())
