# SPDX-License-Identifier: GPL-2.0-only
#
# Turn what the kernel's run_kselftest.sh prints for one test, where everything
# of the test is behind "# ", into one nested KTAP test called name, with the
# given number.  What is not KTAP becomes a diagnostic.

function uptime(   line) {
	getline line < "/proc/uptime"
	close("/proc/uptime")
	return line + 0
}

# The parser of the kernel knows by the name where a test ends that died early.
function open_nested() {
	if (header && !opened) {
		print "  KTAP version 1"
		print "  # Subtest: " name
		opened = 1
	}
}

BEGIN {
	start = uptime()
}

{
	gsub(/[\r\t]/, " ")
	gsub(/[^ -~]/, "?")
}

# The runner's result sticks to a last line of the test that has no end.
/^#/ && match($0, /(not )?ok 1 selftests: /) {
	glued = substr($0, RSTART)
	$0 = substr($0, 1, RSTART - 1)
}

# The runner's own lines: only its result counts.
!/^#/ {
	if (/^(not )?ok 1 /)
		verdict = $0
	else if (!/^(TAP version|1\.\.)/ && NF)
		last = $0
	next
}

# After the result only the runner's totals come.
verdict {
	next
}

glued {
	verdict = glued
}

{
	sub(/^# ?/, "")
}

# What the runner has to say about each test.
/^(selftests: |timeout set to |overriding timeout to )/ {
	next
}

/^1\.\.0 *# *SKIP/ {
	sub(/^1\.\.0 *# *SKIP */, "")
	why = $0
	next
}

/^K?TAP version [0-9]+$/ {
	if (!header) {
		header = 1
		next
	}
}

header && /^ *(K?TAP version [0-9]+$|1\.\.[0-9]|(not )?ok [0-9])/ {
	open_nested()
	print "  " $0
	fflush()
	next
}

NF {
	open_nested()
	sub(/^ *# ?/, "")
	print "  # " $0
	fflush()
	last = $0
	if (tolower($0) ~ /skip/)
		why = $0
}

END {
	printf "# lab: seconds=%.1f\n", uptime() - start
	if (verdict ~ /# SKIP *$/) {
		print "ok " number " " name " # SKIP " (why != "" ? why : last)
	} else if (verdict ~ /^ok [^#]*$/) {
		print "ok " number " " name
	} else {
		if (match(verdict, /# *(TIMEOUT|exit|XFAIL).*/))
			print "# lab: reason=" substr(verdict, RSTART + 2)
		else
			print "# lab: reason=no result of run_kselftest.sh: " last
		print "not ok " number " " name
	}
}
