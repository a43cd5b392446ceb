#!/bin/sh
# The programs that tests drive, from Debian's packages, and the one Python package that not every stack may ask for.
# Installs what is missing (as root), and names what it could not install: tests that need it are skipped, which
# fails CI unless tests/allowed_skips.txt allows it. `tests/tools.sh databases` does so for the databases of
# `make airflow-test`, which no other test needs.
set -eu
cd "$(dirname "$0")/.."
wanted=${1:-programs}

missing() {  # the Debian packages of the programs that are not here
    if [ "$wanted" = databases ]; then
        # The core packages hold the server alone: nothing is set up or started that listens all the time.
        PATH=$PATH:/usr/sbin command -v mariadbd >/dev/null || echo mariadb-server-core
        command -v my_print_defaults >/dev/null || echo mariadb-client-core
        ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || echo postgresql
        return
    fi
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || echo chromium
    command -v promtool >/dev/null || echo prometheus
    command -v kustomize >/dev/null || command -v kubectl >/dev/null || echo kustomize
    command -v openssl >/dev/null || echo openssl
    command -v unshare >/dev/null || echo util-linux
}

if [ -n "$(missing)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    log=$(mktemp)
    apt-get update -q >"$log" 2>&1 || cat "$log" >&2
    # One after the other: a package that this release of Debian does not have must not stop the others.
    for package in $(missing); do
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" >"$log" 2>&1 \
            || tail -n 3 "$log" >&2
    done
    rm -f "$log"
fi
for package in $(missing); do
    echo "Not installed: $package (Debian, Ubuntu: apt-get install $package, as root). Tests that need it are skipped." >&2
done

[ "$wanted" = programs ] || exit 0

# The wheels of the language model decoder need glibc 2.35, so the portable stack does not name it.
if [ -x .venv/bin/uv ] && ! .venv/bin/python -c "import ctc_beam_decoder" 2>/dev/null; then
    wanted=$(grep '^ctc-beam-decoder==' requirements/current.txt)
    .venv/bin/uv pip install --quiet --python .venv/bin/python "$wanted" \
        || echo "Not installed: $wanted (needs glibc 2.35). The tests of the KenLM decoder are skipped." >&2
fi
