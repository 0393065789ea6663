#!/bin/sh
# Installs what some tests need, from the archive of Debian or Ubuntu, as root.
#   install-packages.sh [cluster|browser|database]      default: cluster
# Nothing is done where all is there, and no daemon is started. A failure is told in one line.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
group=${1:-cluster}

fail() {
    echo "$group-packages: $*" >&2
    exit 1
}

has_all() {
    for program in "$@"; do
        command -v "$program" >/dev/null || return 1
    done
}

has_any() {
    for program in "$@"; do
        command -v "$program" >/dev/null && return
    done
    return 1
}

case $group in
    cluster)
        what="Slurm, munge and MariaDB"
        packages="slurmctld slurmd slurm-client munge slurmdbd mariadb-server iproute2"
        is_complete() {
            has_all slurmctld slurmd sbatch munged slurmdbd mariadbd mariadb-install-db ip tc
        }
        ;;
    browser)
        what="Chromium"
        packages="chromium"  # on Ubuntu that is a snap, which apt does not have
        is_complete() {
            has_any chromium chromium-browser google-chrome google-chrome-stable
        }
        ;;
    database)
        what="PostgreSQL"
        packages="postgresql"
        is_complete() {  # Debian keeps its programs apart, a directory for each version
            has_all initdb pg_ctl || has_any /usr/lib/postgresql/*/bin/initdb
        }
        ;;
    *)
        echo "install-packages.sh: '$group' is none of: cluster browser database" >&2
        exit 2
        ;;
esac

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

install() {
    # shellcheck disable=SC2086  # a list
    apt install -y --no-install-recommends $packages
}

is_complete && exit
command -v apt-get >/dev/null || fail "no apt-get here; install $what yourself"
[ "$(id -u)" = 0 ] || fail "needs root: sudo make $group-packages"

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
