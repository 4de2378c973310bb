# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Packages of Debian that are newer than the system: the kernel, and what the
# kernel needs to be checked.

SUITES=(sid forky trixie-backports experimental)
FETCH=$BUILD/debian
# For packages of another architecture
APT_OPTIONS=()

# apt with a state of its own: it checks Debian's signatures with the system's
# keys, and the system's sources and lists stay as they are.
private_apt()
{
	local tool=$1
	shift
	"$tool" -o Dir::State="$FETCH/state" -o Dir::State::status=/dev/null \
		-o Dir::Cache="$FETCH/cache" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::sourcelist="$FETCH/sources.list" \
		-o APT::Sandbox::User=root -o Acquire::Languages=none "${APT_OPTIONS[@]}" "$@"
}

# The mirror that the system itself is set up for.
debian_mirror()
{
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE)' |
		awk '$1 == "Packages" && $3 !~ /security/ && $2 ~ /\/debian\/?$/ { print $2; exit }'
}

# Get the lists of those suites; says $1 while it does.
debian_lists()
{
	local mirror suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg

	if ! command -v apt-cache > /dev/null || [ ! -e "$keyring" ]; then
		die "no Debian archive to fetch from here: use a Debian system, or give a kernel tree with LINUX=/path/to/linux"
	fi
	mirror=$(debian_mirror)
	[ -n "$mirror" ] ||
		die "no Debian mirror among this system's apt sources: run apt-get update, or give a kernel tree with LINUX=/path/to/linux"
	mkdir -p "$FETCH"/state/lists/partial "$FETCH"/cache/archives/partial
	for suite in "${SUITES[@]}"; do
		echo "deb [signed-by=$keyring] $mirror $suite main"
		echo "deb-src [signed-by=$keyring] $mirror $suite main"
	done > "$FETCH/sources.list"
	# A suite may be missing from a mirror; what counts is what is found.
	(with_progress "$1" "$BUILD/log/debian-lists.log" private_apt apt-get update) || true
}

# Have the packages $2... unpacked in folder $1, of which nothing else may be.
debian_unpack()
{
	local to=$1 package
	shift

	rm -rf "$to"
	mkdir -p "$to/packages"
	(
		cd "$to/packages" || exit
		with_progress "fetching $*" "$BUILD/log/fetch-${to##*/}.log" private_apt apt-get download "$@"
		for package in *.deb; do
			dpkg-deb -x "$package" "$to"
		done
	)
	rm -rf "$to/packages"
}
