#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Every file of the repository names its licence. Mails, recorded logs, and the
# config and settings files of a kselftest are no files of that kind.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$LAB"
bare=$(find . \( -path ./build -o -path ./.git -o -name __pycache__ \) -prune -o -type f -print | sort |
	grep -vE '^\./(COPYING|series/|scripts/tests/logs/|tools/testing/selftests/[a-z]*/(config[^/]*|settings)$)' |
	while read -r file; do
		head -n 5 "$file" | grep -q 'SPDX-License-Identifier: GPL-2\.0' || echo "$file"
	done)
if [ -n "$bare" ]; then
	echo "not ok - SPDX-License-Identifier"
	printf '# %s has none in its first five lines\n' "$bare"
	exit 1
fi
echo "ok - SPDX-License-Identifier"
