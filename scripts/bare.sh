#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# bare.sh COMMAND...: run each command, a line of shell, in a fresh clone on a machine
# that has git, make and what Debian calls essential, and nothing else: a minimal root
# of the release and the mirror that this machine has, in build/bare.  A package that
# nobody has listed is missing there.  As root, on Debian.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

root=$BUILD/bare
project=/srv/project

[ $# -gt 0 ] || die "usage: bare.sh COMMAND..."
[ "$(id -u)" -eq 0 ] || die "a root for other programs can be made by root only: run it with sudo"
# What is mounted below the root goes with this process, however it ends, and so does
# whatever it has started.
if [ -z "${LAB_BARE:-}" ]; then
	LAB_BARE=1 exec unshare --mount --pid --fork --kill-child --mount-proc "$0" "$@"
fi
need_disk 20
if ! command -v mmdebstrap > /dev/null; then
	with_progress "refreshing the package lists" "$BUILD/log/apt-update.log" apt-get update
	with_progress "installing mmdebstrap" "$BUILD/log/apt-install.log" \
		env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mmdebstrap
fi

# Debian's own sources of this machine, and no others.
# shellcheck disable=SC2016 # apt's own variables
apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
	awk '$1 == "Packages" && $2 == "Debian" && !seen[$0]++ { print "deb", $3, $4, $5 }' \
	> "$BUILD/bare.list"
[ -s "$BUILD/bare.list" ] || die "this system has no Debian mirror among its apt sources"
# How it reaches the mirror, and that the mirror may be older than its clock says.
apt-config dump | grep -E '^Acquire::([a-z]+::Proxy|Check-Valid-Until)' > "$BUILD/bare.apt" || true
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")

rm -rf --one-file-system "$root"
with_progress "making a minimal root of Debian $codename" "$BUILD/log/bare.log" \
	mmdebstrap --mode=root --variant=apt --include=git,make --aptopt="$BUILD/bare.apt" \
	"$codename" "$root" "$BUILD/bare.list"
[ -z "$(git -C "$LAB" status --porcelain)" ] || say "note: the clone has no uncommitted changes"
git clone -q --no-hardlinks "$LAB" "$root$project"

{
	echo "set -euo pipefail"
	echo "cd $project"
	for command in "$@"; do
		printf 'printf "\\n##### %%s\\n" %q >&2\n%s < /dev/null\n' "$command" "$command"
	done
} > "$root/srv/run"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"

mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
	${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} bash /srv/run
