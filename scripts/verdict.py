#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Judge runs of boot.sh: green only where everything that was asked for ran to
its end, said so completely, and the kernel had nothing to complain about.

Each DIR has the plan, devices, run.json, console.log and ktap.log of one run,
and gets a summary.json.  Several of them are the shards of one plan.

A skip is no failure, so what each row of the plan passes is pinned in a file
under review: comments, then one line per row, "PASSED/CASES  ROW  # comment".
--expected compares with it: red where a row passes fewer, has fewer cases, or
is not in both.  --record writes it, from green runs alone; comments stay.
"""

from __future__ import annotations

import argparse
import json
import os
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
# How many rounds a race had, as the test says.
RACES = re.compile(r' *#.*\braces: (.*\S)')
# All of this boot.sh must say about a run.
RUN_KEYS = ('qemu_status', 'timeout', 'lockdep', 'kmemleak', 'x2apic')
X2APIC = re.compile(r'\bx2apic enabled|x2apic: enabled by BIOS')
PIN = re.compile(r'(\d+)/(\d+)\s+(\S+\s[^#]*[^#\s])\s*(#.*)?')
PINS_HEADER = ['# SPDX-License-Identifier: GPL-2.0-only', '#',
               '# Of each row of the plan: what passes, of how many cases.  Written by',
               '# "scripts/verdict.py --record"; a comment may stand here and behind a row.']


@dataclass
class Row:
    """One program of the plan, or one check of the lab."""
    name: str
    device: str = '-'
    program: bool = False
    passed: int = 0
    # Those that failed or did not report, and all of them
    failed: int = 0
    cases: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    races: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """As in the plan, but for the collection."""
        return f'{self.device} {self.name}'


@dataclass
class Pin:
    passed: int
    cases: int
    comment: str = ''


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
        tally(sub, row, status, sub.name or 'a case without a name')
    missing = len(test.subtests) - len(reported)
    if missing:
        row.failures.append(f'{said}{missing} of {len(test.subtests)} results are missing')
    failed_below = len(row.failures) > before

    # One that reports for another would hide that the other did not run.
    row.failures += [f'{said}"{name}" is reported {count} times'
                     for name, count in Counter(sub.name for sub in reported).items() if count > 1]
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
    leaf = bool(path) and not test.subtests
    row.cases += missing + leaf
    row.failed += missing + (leaf and len(row.failures) > before)


def plan_row(line: str) -> tuple[str, str]:
    """Device and name of a line of the plan."""
    device, test, *args = line.split()
    return device, ' '.join([test.split(':', 1)[-1], *args])


def expected_tests(run: Path, info: dict) -> list[tuple[str, str, bool]]:
    """Name and device of everything that must report, and whether it is a program."""
    tests, bound = [], set()
    missing = {line.split()[0] for line in read_lines(run / 'devices') if ' - ' in line}
    for line in filter(None, read_lines(run / 'plan')):
        device, name = plan_row(line)
        tests.append((name if device == '-' else f'{device} {name}', device, True))
        bound |= set(device.split('+')) - missing - {'-'}
    tests += [(f'lab device {device}', device, False) for device in sorted(bound)]
    tests.append(('lab taint', '-', False))
    tests += [(f'lab {check}', '-', False) for check in ('pat', 'lockdep', 'kmemleak') if info.get(check)]
    return tests


def running(lines: list[str]) -> str:
    """The test that was running when the log ended."""
    started = [line.removeprefix('# lab: start=') for line in lines if line.startswith('# lab: start=')]
    finished = [line for line in lines if re.match(r'(not )?ok ', line)]
    return started[-1] if len(started) > len(finished) else ''


def find_races(lines: list[str]) -> list[tuple[str, str]]:
    """What was said about races, and in which test."""
    found, where = [], ''
    for line in lines:
        if line.startswith('# lab: start='):
            where = line.removeprefix('# lab: start=')
        elif match := RACES.fullmatch(line):
            found.append((where, match[1]))
    return found


def read_info(run: Path) -> tuple[dict, list[str]]:
    """What boot.sh says about the run, and what is wrong with that."""
    try:
        info = json.loads((run / 'run.json').read_text())
        # An empty one would be equal to another empty one.
        return info, [f'run.json does not say "{key}"' for key in RUN_KEYS if info.get(key) in (None, '')]
    except (OSError, ValueError, AttributeError) as error:
        return {}, [f'run.json cannot be read: {error}']


def check_run(info: dict, where: str, console: list[str]) -> list[str]:
    problems = []
    status = info.get('qemu_status')
    if status == 124:
        problems.append(f'guest hung in {where}: stopped after {info.get("timeout")} seconds')
    elif status:
        problems.append(f'QEMU ended with status {status} in {where} (see qemu.log)')
    if info.get('x2apic') and not any(X2APIC.search(line) for line in console):
        problems.append('the CPUs had no x2APIC: "x2apic enabled" is not in the console log')
    return problems


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
    info, problems = read_info(run)
    console = read_lines(run / 'console.log')
    lines = read_lines(run / 'ktap.log')
    while lines and not lines[-1]:
        lines.pop()
    main, complaints, status = parse(lines, tree)
    last = running(lines)
    races = find_races(lines)
    rows = []
    results = list(main.subtests)
    for name, device, program in expected_tests(run, info):
        row = Row(name.removeprefix(f'{device} ') if program else name, device, program)
        row.races = [text for where, text in races if where == name]
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
    whole.failures += problems
    if not any(row.program for row in rows):
        whole.failures.append('the plan is empty')
    whole.failures += check_run(info, f'"{last}"' if last else 'no test', console)
    whole.failures += check_console(console)
    whole.failures += check_ktap_text(lines)
    whole.failures += [f'KTAP parser: {message}' for message in complaints]
    whole.failures += [f'"{t.name}" is in the KTAP log but not in the plan' for t in results if t.name]
    whole.passed = int(not whole.failures)
    return rows + [whole]


def read_pins(path: Path) -> tuple[list[str], dict[str, Pin]]:
    """The comments on top, and the rows."""
    header: list[str] = []
    pins: dict[str, Pin] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = PIN.fullmatch(line.strip())
        row = ' '.join(match[3].split()) if match else ''
        if row and row not in pins and int(match[1]) <= int(match[2]):
            pins[row] = Pin(int(match[1]), int(match[2]), match[4] or '')
        elif line.startswith('#') and not pins:
            header.append(line)
        elif line.strip():
            raise ValueError(f'line {number} is no "PASSED/CASES  ROW", or pins a row again: {line.strip()}')
    return header, pins


def check_pins(rows: list[Row], path: Path, part: bool) -> Row:
    """Compare the rows of the plan; what belongs to none of them has a row of its own."""
    result = Row('pins')
    try:
        pins = read_pins(path)[1]
    except (OSError, ValueError) as error:
        result.failures.append(f'nothing is pinned in {path}: {error}')
        return result
    programs = [row for row in rows if row.program]
    for row in programs:
        pin = pins.get(row.line)
        if pin is None:
            row.failures.append(f'is not pinned in {path}')
        elif row.failures and not row.cases:
            pass  # It died before its first case, and that has been said.
        elif row.passed + row.failed < pin.passed:
            failed = f' and failed {row.failed}' if row.failed else ''
            row.failures.append(f'passed {row.passed}{failed}, but {pin.passed} are pinned in {path}')
        elif row.cases < pin.cases:
            row.failures.append(f'has {row.cases} cases, but {pin.cases} are pinned in {path}')
        elif row.passed > pin.passed:
            row.notes.append(f'passed {row.passed}, which is more than the {pin.passed} pinned in {path}')
    if not part:
        run = {row.line for row in programs}
        result.failures += [f'"{row}" is pinned in {path}, but not in the plan' for row in pins if row not in run]
    result.passed = int(not result.failures)
    return result


def record_pins(rows: list[Row], path: Path, part: bool) -> int:
    """Pin what the rows of green runs passed: how many rows these are."""
    header, old = read_pins(path) if path.exists() else ([], {})
    pins: dict[str, Pin] = {}
    for row in rows:
        if row.program:
            # In more than one of the runs: what each of them can hold.
            same = pins.get(row.line, row)
            comment = old[row.line].comment if row.line in old else ''
            pins[row.line] = Pin(min(same.passed, row.passed), min(same.cases, row.cases), comment)
    text = [f'{f"{pin.passed}/{pin.cases}":>7}  {row}{"  " * bool(pin.comment)}{pin.comment}'
            for row, pin in sorted({**(old if part else {}), **pins}.items())]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([*(header or PINS_HEADER), *text]) + '\n')
    return len(pins)


def report(rows: list[Row], last_words: list[str]) -> str:
    name, device = (max(len(getattr(row, key)) for row in rows) for key in ('name', 'device'))
    device = max(device, len('device'))
    lines = [f'{"test":{name}} | {"device":{device}} |  pass |  fail |  skip | seconds']
    lines += [f'{r.name:{name}} | {r.device:{device}} | {r.passed:5} | {len(r.failures):5} | '
              f'{len(r.skips):5} | {r.seconds:7.1f}' for r in rows]
    # Many tests skip for one reason; summary.json has them all.
    skips = Counter(f'{r.line}: ' + re.sub(r'^\S+: ', '', why) for r in rows for why in r.skips)
    for title, reasons in (
            ('failures', [f'  {r.line}: {why}' for r in rows for why in r.failures]),
            ('skips', [f'{count:5} x {why}' for why, count in skips.items()]),
            ('races', [f'  {r.line}: {text}' for r in rows for text in r.races]),
            ('notes', [f'  {r.line}: {text}' for r in rows for text in r.notes])):
        lines += ['', f'{title}:', *reasons] if reasons else []
    lines += ['', *last_words,
              f'{sum(r.passed for r in rows)} passed, {sum(len(r.failures) for r in rows)} failed, '
              f'{sum(len(r.skips) for r in rows)} skipped']
    return '\n'.join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tree', type=Path, help='kernel tree whose KTAP parser is used (default build/linux)',
                        default=os.environ.get('LAB_TREE', Path(__file__).resolve().parents[1] / 'build/linux'))
    pins = parser.add_mutually_exclusive_group()
    pins.add_argument('--expected', type=Path, metavar='FILE',
                      help='red where the runs have less than FILE, or other rows')
    pins.add_argument('--record', type=Path, metavar='FILE', help='pin in FILE what the runs passed')
    parser.add_argument('--part', action='store_true',
                        help='these runs are not all of the plan: the other rows of FILE stay as they are')
    parser.add_argument('run', type=Path, nargs='+', metavar='DIR')
    args = parser.parse_args()

    runs = [(run, judge(run, args.tree)) for run in args.run]
    rows = [row for _, its in runs for row in its]
    last_words = []
    if args.expected:
        row = check_pins(rows, args.expected, args.part)
        runs[-1][1].append(row)
        rows.append(row)
    red = any(row.failures for row in rows)
    for run, its in runs:
        its_red = any(row.failures for row in its)
        (run / 'summary.json').write_text(json.dumps(
            {'verdict': 'red' if its_red else 'green', 'tests': [vars(row) for row in its]}, indent=1) + '\n')
        if its_red:
            last_words.append(f'logs: {run}/console.log {run}/ktap.log')
    if args.expected and any(f'pinned in {args.expected}' in why for row in rows for why in row.failures):
        last_words.append(f'if the pins are wrong, and all else is green: scripts/verdict.py '
                          f'{"--part " * args.part}--record {args.expected} {" ".join(map(str, args.run))}')
    if args.record and red:
        last_words.append(f'not recorded in {args.record}: a red run pins nothing')
    elif args.record:
        try:
            last_words.append(f'recorded {record_pins(rows, args.record, args.part)} rows in {args.record}')
        except (OSError, ValueError) as error:
            last_words.append(f'not recorded in {args.record}: {error}')
            red = True
    print(report(rows, last_words))
    return int(red)


if __name__ == '__main__':
    sys.exit(main())
