#!/bin/sh
# Creates the virtual environment .venv with the locked packages and this project, or brings it up to date.
# Does nothing, in a fraction of a second, when neither requirements.txt nor the packaging files have changed.
set -eu
cd "$(dirname "$0")"

wanted=3.10
stamp=.venv/.installed
state=$(cat requirements.txt setup.py client/pyproject.toml setup_env.sh | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && exit 0

find_python() {
    for candidate in \
        "${HTR_PYTHON:-}" \
        python$wanted \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/$wanted*/bin/python \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}"/cpython-$wanted*/bin/python$wanted \
        "$HOME"/miniconda3/envs/*/bin/python$wanted /opt/python/cp310-cp310/bin/python \
        /usr/local/bin/python$wanted /opt/homebrew/bin/python$wanted python3 python
    do
        [ -n "$candidate" ] || continue
        version=$("$candidate" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        [ "$version" = "$wanted" ] && { command -v "$candidate"; return 0; }
    done
    return 1
}

python=$(find_python) || {
    cat >&2 <<MESSAGE
Python $wanted (with venv) was not found on the PATH, nor where pyenv, uv or conda keep interpreters.
Install it, for example with one of
    pyenv install $wanted          uv python install $wanted          apt-get install python$wanted-venv
or point HTR_PYTHON at a Python $wanted, then run the same command again.
MESSAGE
    exit 1
}
# One dependency (pyfarmhash) has no wheel: better to say so now than after minutes of downloading.
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || {
    echo "A C++ compiler is needed to build one package (pyfarmhash): install g++ (Debian, Ubuntu: apt-get install g++)." >&2
    exit 1
}
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
[ -f "$header" ] || {
    echo "The Python headers are missing ($header): install them (Debian, Ubuntu: apt-get install python$wanted-dev)." >&2
    exit 1
}

echo "Setting up .venv with $("$python" --version) (about 3 GB; a minute or two the first time)" >&2
rm -f "$stamp"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv installs the lock file many times faster than pip; it must not fetch interpreters of its own.
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.*"
export UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV="$PWD/.venv"
.venv/bin/uv pip install --quiet --requirement requirements.txt
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable ./client --editable .
echo "$state" > "$stamp"
