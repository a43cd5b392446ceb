#!/bin/sh
# The suite on the current stack, and the comparison of both stacks (tests/end_to_end/test_stacks.py).
#
# Where glibc is new enough that is `make lint coverage` with HTR_STACK=current. Elsewhere it happens, without the tests
# for which one stack is enough (`either_stack`), in a Debian 13 root of its own, .debian13, which needs root, debootstrap
# and Debian's mirror; `make clean` deletes it. Exits with 75 when that cannot be had, and says why. With the argument
# `prepare` it makes that root and the environment in it, mostly downloads, and ends.
set -eu
cd "$(dirname "$0")/.."

needed=$(sed -n 's/^current_glibc=\([0-9.]*\).*/\1/p' setup_env.sh)
if [ "$(printf '%s\n' "$needed" "$(getconf GNU_LIBC_VERSION | sed 's/.* //')" | sort -V | head -n 1)" = "$needed" ]; then
    [ "${1:-}" != prepare ] || exit 0
    exec env HTR_STACK=current make lint coverage
fi

cannot() {
    echo "The current stack was not tested: this machine's glibc is older than $needed, and $1." >&2
    exit 75
}
[ "$(id -u)" = 0 ] || cannot "a Debian 13 root needs the rights of root"
command -v debootstrap >/dev/null || cannot "debootstrap is not installed (Debian, Ubuntu: apt-get install debootstrap)"
unshare --mount true 2>/dev/null || cannot "mounts are not allowed here"

root=$PWD/.debian13
if [ ! -e "$root/.made" ]; then
    echo "Making a Debian 13 root in .debian13 (about 5 GB with all packages)" >&2
    rm -rf "$root"
    debootstrap --variant=minbase --include=ca-certificates,curl,g++,git,make,procps,python3-dev,python3-venv \
        trixie "$root" >"$root.log" 2>&1 || cannot "debootstrap failed, see .debian13.log"
    rm -f "$root.log"
    touch "$root/.made"
fi
# Names and certificates are those of this machine: it may stand behind a proxy.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

# What git tracks or would track; .venv stays from the last time.
mkdir -p "$root/checkout" "$root/exchange"
find "$root/checkout" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' _ \
    | tar --create --null --files-from=- | tar --extract --no-same-owner --directory "$root/checkout"

inside() {
    # The mounts end with the command.
    unshare --mount sh -c '
        root=$1; shift
        mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev" || exit 75
        exec chroot "$root" env -u VIRTUAL_ENV -u HTR_PYTHON -u PYTHONPATH -u PYENV_ROOT -u TMPDIR HOME=/root LANG=C.UTF-8 \
            PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin sh -c "cd /checkout && $*"' _ "$root" "$@"
}

inside HTR_STACK=current ./setup_env.sh
inside tests/tools.sh
[ "${1:-}" != prepare ] || exit 0
rm -rf "$root/exchange/"*
./setup_env.sh
.venv/bin/python -m tests.end_to_end.exchange "$root/exchange/portable"
inside .venv/bin/python -m tests.end_to_end.exchange /exchange/current --data /exchange/portable/data
HTR_THIS_STACK=$root/exchange/portable HTR_OTHER_STACK=$root/exchange/current \
    .venv/bin/python -m pytest tests/end_to_end/test_stacks.py
inside HTR_STACK=current HTR_THIS_STACK=/exchange/current HTR_OTHER_STACK=/exchange/portable make pytest \
    "'SELECT=not deployment and not either_stack'"
