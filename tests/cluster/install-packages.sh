#!/bin/sh
# Installs what the tests in this directory need, from the archive of Debian or Ubuntu, as root.
# Nothing is done where all is there, and no daemon is started. A failure is told in one line.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
packages="slurmctld slurmd slurm-client munge slurmdbd mariadb-server iproute2"

fail() {
    echo "cluster-packages: $*" >&2
    exit 1
}

is_complete() {
    for program in slurmctld slurmd sbatch munged slurmdbd mariadbd mariadb-install-db ip tc; do
        command -v "$program" >/dev/null || return 1
    done
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

install() {
    # shellcheck disable=SC2086  # a list
    apt install -y --no-install-recommends $packages
}

is_complete && exit
command -v apt-get >/dev/null || fail "no apt-get here; install Slurm, munge and MariaDB yourself"
[ "$(id -u)" = 0 ] || fail "needs root: sudo make cluster-packages"

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
is_ours=0
trap 'rm -f "$log"; [ "$is_ours" = 0 ] || rm -f "$policy"' EXIT
trap 'exit 130' INT TERM
if [ ! -e "$policy" ]; then  # packages ask it whether they may start their daemons: no
    is_ours=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

echo "Installing $packages; this takes a minute ..."
# The lists of packages are fetched only where those at hand are missing or too old.
install || { apt update && install; } || fail "apt-get failed: $(tail -n 1 "$log")"
is_complete || fail "some programs are missing still; see: dpkg -l $packages"
