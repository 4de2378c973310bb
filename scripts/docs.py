#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a document shows and names: its blocks of C, trace events and files.

docs.py blocks DIR FILE...      write each program of FILE (.md or .rst) to DIR, and to
                                DIR/quotes which files its other blocks are quoted from
docs.py names TREE FILE...      print a TAP line for each trace event, field, test and
                                file that the .rst FILEs name
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Iterator, NamedTuple


class Block(NamedTuple):
    """A block of code: its first line in the document, and what it is a quote of."""
    line: int
    quote: str
    text: str


def markdown_blocks(lines: list[str]) -> Iterator[Block]:
    """Blocks between ```c, or ```c FILE for a quote, and ```."""
    start: tuple[int, str] | None = None
    for number, line in enumerate(lines):
        if match := re.fullmatch(r'```c(?: (\S+))?', line):
            start = (number + 1, match[1] or '')
        elif line == '```' and start:
            yield Block(start[0] + 1, start[1], '\n'.join(lines[start[0]:number]) + '\n')
            start = None


def rst_blocks(lines: list[str], language: str = 'c') -> Iterator[Block]:
    """Blocks of a code-block, of a file if ".. quote: FILE" is right before it."""
    for number, line in enumerate(lines):
        if line.strip() != f'.. code-block:: {language}':
            continue
        quote = re.fullmatch(r'\s*\.\. quote: (\S+)', lines[number - 1])
        first = number + 1
        while first < len(lines) and not lines[first].strip():
            first += 1
        # Indented by a tab, or as the directive's options would be
        indent = '\t' if lines[first].startswith('\t') else '   '
        last = first
        while last < len(lines) and (not lines[last].strip() or lines[last].startswith(indent)):
            last += 1
        text = '\n'.join(line.removeprefix(indent) for line in lines[first:last])
        yield Block(first + 1, quote[1] if quote else '', text.rstrip('\n') + '\n')


def write_blocks(directory: Path, documents: list[Path]) -> None:
    """Programs to files of their own, quotes to a list and files beside it."""
    quotes = []
    for document in documents:
        lines = document.read_text().splitlines()
        find = rst_blocks if document.suffix == '.rst' else markdown_blocks
        for block in find(lines):
            name = f'{document.name}:{block.line}'
            if block.quote:
                (directory / f'{name}.quote').write_text(block.text)
                quotes.append(f'{name} {block.quote}\n')
            else:
                (directory / f'{name}.c').write_text(block.text)
    (directory / 'quotes').write_text(''.join(quotes))


def trace_events(tree: Path, group: str) -> dict[str, set[str]]:
    """The events of a group of tracepoints, and their fields."""
    for header in (f'drivers/vfio/pci/{group}_trace.h', f'include/trace/events/{group}.h'):
        if (tree / header).is_file():
            break
    else:
        return {}
    events: dict[str, set[str]] = {}
    classes: dict[str, set[str]] = {}
    for kind, body in re.findall(r'^(TRACE_EVENT|DECLARE_EVENT_CLASS|DEFINE_EVENT\w*)\((.*?)^\);?$',
                                 (tree / header).read_text(), re.DOTALL | re.MULTILINE):
        names = re.findall(r'\w+', body)
        fields = set(re.findall(r'__field\([^,]*,\s*(\w+)', body))
        fields |= set(re.findall(r'__string\(\s*(\w+)', body))
        if kind == 'TRACE_EVENT':
            events[names[0]] = fields
        elif kind == 'DECLARE_EVENT_CLASS':
            classes[names[0]] = fields
        else:
            events[names[1]] = classes.get(names[0], set())
    return events


class Tap:
    """Each thing is told once, where it is first named."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def tell(self, good: bool, where: str, what: str) -> None:
        if what not in self.told:
            self.told.add(what)
            print(f'{"ok" if good else "not ok"} - {where}: {what}')


def check_events(tap: Tap, tree: Path, document: Path) -> int:
    """What bpftrace, perf and tracefs are told, and the tables of what there is."""
    text = document.read_text()
    found = 0
    blocks = [block for language in ('none', 'sh') for block in rst_blocks(text.splitlines(), language)]
    for block in blocks:
        probes = list(re.finditer(r'(?:tracepoint:|-e )(\w+):(\w+)', block.text))
        for probe, after in zip(probes, probes[1:] + [None]):
            events = trace_events(tree, probe[1])
            where = f'{document.name}:{block.line}'
            tap.tell(probe[2] in events, where, f'there is an event {probe[1]}:{probe[2]}')
            found += 1
            end = after.start() if after else len(block.text)
            for field in re.findall(r'\bargs\.(\w+)', block.text[probe.end():end]):
                tap.tell(field in events.get(probe[2], ()), where, f'{probe[2]} has a field {field}')
        # 'hist:keys=A,B:vals=C' > EVENT/trigger
        events = trace_events(tree, 'vfio_pci')
        for keys, event in re.findall(r"'hist:([^']*)'[^>]*>\s*(\w+)/", block.text):
            for field in re.findall(r'(?<=[=,])\w+', keys):
                tap.tell(field in events.get(event, ()) or field == 'hitcount',
                         f'{document.name}:{block.line}', f'{event} has a field {field}')
        for event in re.findall(r'\b(vfio_pci_\w+)/(?:filter|trigger|hist|enable)\b', block.text):
            tap.tell(event in events, f'{document.name}:{block.line}', f'there is an event {event}')
    # Rows of a table: the event, its fields, what it is for
    rows = re.findall(r'\* - (vfio_pci_\w+)\n\s+- ([\w,\s]+?)\n\s+- ', text)
    if rows:
        events = trace_events(tree, 'vfio_pci')
        listed = {name: set(re.findall(r'\w+', fields)) for name, fields in rows}
        for name in sorted(events.keys() | listed.keys()):
            tap.tell(listed.get(name) == events.get(name), document.name,
                     f'the table has {name} and its fields as they are')
    return found


def check_files(tap: Tap, tree: Path, document: Path) -> int:
    """Files and tests of the kernel tree."""
    text = document.read_text()
    tops = 'Documentation|drivers|include|samples|scripts|tools'
    paths = re.findall(rf'(?<![\w/.-])((?:{tops})/[\w./+-]*\w)', text)
    for path in paths:
        tap.tell((tree / path).exists(), document.name, f'there is a {path}')
    for name in re.findall(r'(?<![\w/])(vfio_\w+_test)\b(?!\.\w)', text):
        path = f'tools/testing/selftests/vfio/{name}.c'
        tap.tell((tree / path).exists(), document.name, f'there is a {path}')
    return len(paths)


def check_names(tree: Path, documents: list[Path]) -> None:
    """All of it. A chapter that names nothing, or is not read as it should be, fails."""
    tap = Tap()
    nr_events = sum(check_events(tap, tree, document) for document in documents)
    nr_files = sum(check_files(tap, tree, document) for document in documents)
    tap.tell(nr_events > 0, 'chapter', f'names {nr_events} trace events')
    tap.tell(nr_files > 0, 'chapter', f'names {nr_files} files')


def main() -> None:
    """Do what the first argument says."""
    if len(sys.argv) < 4 or sys.argv[1] not in ('blocks', 'names'):
        sys.exit(__doc__)
    documents = [Path(name) for name in sys.argv[3:]]
    if sys.argv[1] == 'blocks':
        write_blocks(Path(sys.argv[2]), documents)
    else:
        check_names(Path(sys.argv[2]), documents)


if __name__ == '__main__':
    main()
