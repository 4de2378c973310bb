#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A green verdict is worth as much as a red one: boot the debug kernel, let a
# program read freed memory while its own test says ok, and pass only where the
# verdict is red because of KASAN.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"

out=$BUILD/run/known-bad
mkdir -p "$out"
echo "- misbehave kasan" > "$out/known-bad"
rm -f "$out/summary.json"
if "$LAB/scripts/boot.sh" --plan "$out/known-bad" --out "$out" --icount \
	--add "$LAB/scripts/tests/misbehave" debug; then
	die "the verdict is green over a use after free: see $out"
fi
[ -s "$out/summary.json" ] || die "the boot did not come to a verdict, so it proves nothing: see above"
python3 - "$out/summary.json" << 'END' || die "the verdict is red, but not as it should be: see $out"
import json, sys

summary = json.load(open(sys.argv[1]))
rows = {row['name']: row for row in summary['tests']}
whole = rows['run as a whole']['failures']
assert summary['verdict'] == 'red'
assert rows['misbehave kasan']['passed'] == 1 and not rows['misbehave kasan']['failures']
assert any(reason.startswith('KASAN') for reason in whole), whole
# The guest came to its regular end, apart from what KASAN said.
assert not any('truncated' in reason or 'hung' in reason for reason in whole), whole
END
say "as it should be: the verdict is red because of KASAN"
