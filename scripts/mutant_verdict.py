#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Judge the run of a mutant, or of the kernel without one, which verdict.py has
judged before: is what is red there the reason that the mutant gives?

"killed": what must kill the mutant does so, and nothing else is red.
"ok": this is the control, and there it passes.

Killed-by is the name of a test case, which must fail; or "panic", for a kernel
that must die in a test of the plan; or "splat REGEX", for what the console log
must be red about.  Anything may follow a panic or a splat.

Prints what speaks against the mutant, one problem per line.  Exit status 0 says
that it could judge, whatever came out: silence with another one means nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from verdict import plan_row, read_lines

CASE = re.compile(r' +((?:not )?ok) \d+ (\S+)( # SKIP.*)?')


def name_of(device: str, name: str) -> str:
    """As in the KTAP log."""
    return name if device == '-' else f'{device} {name}'


def case_results(lines: list[str]) -> dict[tuple[str, str], str]:
    """What the KTAP log says about each case of each row."""
    results, row = {}, ''
    for line in lines:
        if line.startswith('# lab: start='):
            row = line.removeprefix('# lab: start=')
        elif match := CASE.fullmatch(line):
            results[row, match[2]] = 'skipped' if match[3] else match[1]
    return results


def problems(run: Path, wanted: str, plan: list[str], killers: list[str]) -> Iterator[str]:
    if not (run / 'summary.json').exists():
        yield 'the boot did not come to a verdict'
        return
    tests = json.loads((run / 'summary.json').read_text())['tests']
    failures = {name_of(test['device'], test['name']): test['failures'] for test in tests}
    passed = {name_of(test['device'], test['name']): test['passed'] for test in tests}
    rows = [name_of(*plan_row(line)) for line in plan]
    results = case_results(read_lines(run / 'ktap.log'))
    whole = failures['run as a whole']
    splats = [killer.removeprefix('splat ') for killer in killers if killer.startswith('splat ')]
    cases = [killer for killer in killers if killer != 'panic' and not killer.startswith('splat ')]

    for case in cases:
        found = {results.get((row, case), 'not in the log') for row in rows}
        if ('ok' if wanted == 'ok' else 'not ok') not in found:
            yield f'{case}: is {" and ".join(sorted(found))}'
    if wanted == 'ok':
        # The whole has been found green.  Here it is to be worth something.
        if not any(passed.get(row) for row in rows):
            yield f'nothing passes in {" and ".join(rows)}'
        return
    if 'panic' in killers:
        if not any(why.startswith('kernel panic') for why in whole):
            yield 'the kernel did not die'
        elif not any('did not finish' in failures.get(row, ()) for row in rows):
            yield 'the kernel died, but not in a test of the plan'
    for splat in splats:
        if not any(re.search(splat, why) for why in whole):
            yield f'nothing about "{splat}" in the run as a whole'
    if splats or 'panic' in killers:
        return
    yield from whole
    # Another reason than a test case that failed
    for row in rows:
        yield from (f'{row}: {why}' for why in failures.get(row, ['not in the verdict'])
                    if (row, why.split(': ')[0]) not in results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, metavar='DIR', help='logs and summary.json of the run')
    parser.add_argument('wanted', choices=('ok', 'killed'))
    parser.add_argument('--plan', nargs='+', required=True, metavar='LINE', help="the mutant's lines of the plan")
    parser.add_argument('--killed-by', nargs='+', required=True, metavar='CASE', help='see above')
    args = parser.parse_args()
    # All at once: half a list of them would look like a judgement.
    found = list(problems(args.run, args.wanted, args.plan, args.killed_by))
    print(*found, sep='\n', end='\n' if found else '')
    return 0


if __name__ == '__main__':
    sys.exit(main())
