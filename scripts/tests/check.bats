#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What check.sh makes of its checks, with some that do nothing.

# shellcheck disable=SC2164 # bats ends a test at the first command that fails
bats_require_minimum_version 1.5.0

setup()
{
	cd "$BATS_TEST_TMPDIR"
	cp -r "$BATS_TEST_DIRNAME/../../scripts" .
	printf '#!/bin/sh\n' > scripts/packages.sh
	# Prints each argument, and ends with a last one that is a number.
	cat > prints <<- 'END'
		#!/bin/sh
		for line in "$@"; do
			case $line in
			[0-9]) exit "$line" ;;
			*) printf "$line\n" ;;
			esac
		done
	END
	chmod +x prints
}

# Put the lines on stdin in the place of check.sh's table and run it.
checks()
{
	awk -v table="$(cat)" '
		/^checks="$/ { print; print table; skip = 1 }
		/^"$/ { skip = 0 }
		!skip { print }' scripts/check.sh > check.new
	cat check.new > scripts/check.sh
	run scripts/check.sh "$@"
}

# The last line says $1.
closes_with()
{
	echo "$output"
	[ "${lines[-1]}" = "$1" ]
}

@test "all is well" {
	checks <<- 'END'
		one	exit	-	true
		two	tap	one	./prints ok\40-\40a nothing ok\40-\40b
		three	verdict	-	echo 3 passed, 0 failed, 2 skipped
	END
	closes_with "6 passed, 0 failed, 2 skipped"
	[ "$status" -eq 0 ]
}

@test "a check that prints no result has looked at nothing" {
	checks <<- 'END'
		one	exit	-	true
		two	tap	-	echo nothing of interest
	END
	closes_with "1 passed, 1 failed, 0 skipped"
	[ "$status" -ne 0 ]
	[[ $output == *"This check looked at nothing."* ]]
}

@test "a boot without a verdict has passed nothing" {
	checks <<< $'one\tverdict\t-\techo ok - it came up'
	closes_with "0 passed, 1 failed, 0 skipped"
	[ "$status" -ne 0 ]
}

@test "a verdict of nothing is none" {
	checks <<< $'one\tverdict\t-\techo 0 passed, 0 failed, 0 skipped'
	closes_with "0 passed, 1 failed, 0 skipped"
	[ "$status" -ne 0 ]
}

@test "a failure that the exit code does not tell" {
	checks <<< $'one\ttap\t-\techo not ok - one'
	closes_with "0 passed, 1 failed, 0 skipped"
	[ "$status" -ne 0 ]
}

@test "an exit code that the results do not tell" {
	checks <<- 'END'
		one	tap	-	./prints ok 3
		two	exit	-	false
	END
	closes_with "1 passed, 2 failed, 0 skipped"
	[ "$status" -ne 0 ]
}

@test "what needs a failed check does not run, and has failed" {
	checks <<- 'END'
		one	exit	-	false
		two	exit	one	touch ran
		three	exit	-	true
	END
	closes_with "1 passed, 2 failed, 0 skipped"
	[ "$status" -ne 0 ]
	[ ! -e ran ]
}

@test "what only comes after a failed check runs" {
	checks <<- 'END'
		one	exit	-	false
		two	exit	~one	touch ran
	END
	closes_with "1 passed, 1 failed, 0 skipped"
	[ -e ran ]
}

@test "a check by name runs what it needs, and nothing else" {
	checks two <<- 'END'
		one	exit	-	touch ran-one
		two	exit	one,~three	true
		three	exit	-	touch ran-three
	END
	closes_with "2 passed, 0 failed, 0 skipped"
	[ -e ran-one ]
	[ ! -e ran-three ]
}

@test "a check that nobody knows" {
	checks four <<< $'one\texit\t-\ttrue'
	[ "$status" -ne 0 ]
	[[ $output == *'there is no check "four"'* ]]
}
