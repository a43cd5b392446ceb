#!/bin/sh
# Creates the virtual environment .venv with the locked packages and this project, or brings it up to date.
# Does nothing, in a fraction of a second, when neither lock file, packaging files, interpreter nor folder have changed.
#
# Two stacks: "current" (TFX 1.21, TensorFlow 2.21) where the machine can run it, else "portable" (TFX 1.16,
# TensorFlow 2.16). HTR_STACK=current or HTR_STACK=portable decides; without it, an environment keeps its stack.
#
# CUDA's libraries are added where there is an NVIDIA GPU whose driver can use them. HTR_CUDA=1 adds them anyhow,
# HTR_CUDA=0 removes them, HTR_CUDA=auto looks for a GPU again; without it, what was last asked for counts.
set -eu
HOME=${HOME:-/}  # services and some containers have none
cd "$(dirname "$0")"

stamp=.venv/.installed
# Scripts and the editable installation name the folder that they were installed in: a clone that was moved or copied
# needs an environment of its own. A .venv that is a link belongs to where it leads.
place=$(cd ./.venv 2>/dev/null && pwd -P) || place=$(pwd -P)/.venv
stack= wish= installed_in=
if [ -f "$stamp" ]; then { read -r stack wish _ && IFS= read -r installed_in; } < "$stamp" || true; fi
case $stack in current | portable) ;; *) stack= ;; esac
case $wish in auto | 0 | 1) ;; *) wish=auto ;; esac
stack=${HTR_STACK:-$stack} wish=${HTR_CUDA:-$wish}
why=${HTR_STACK:+HTR_STACK asks for it}
why=${why:-as before}

system=${HTR_SYSTEM_ROOT:-}  # tests put a folder here in place of the root of the file system
oldest_driver=525.60.13  # of CUDA 12, which both stacks' TensorFlow is built with

ask_driver() {  # ask_driver ARGUMENT...: the output of nvidia-smi; WSL has it off the PATH
    if [ -z "$system" ] && command -v nvidia-smi >/dev/null; then timeout 20 nvidia-smi "$@"; else
        timeout 20 "$system/usr/lib/wsl/lib/nvidia-smi" "$@"
    fi 2>/dev/null
}

choose_cuda() {  # sets cuda to yes or no, and cuda_why
    cuda=no
    case $wish in
        0 | 1)
            [ "$wish" = 0 ] || cuda=yes
            cuda_why="HTR_CUDA=$wish asks for that"
            return
            ;;
        auto) ;;
        *)
            echo "HTR_CUDA=$wish: it is 0 (without CUDA), 1 (with CUDA) or auto (with CUDA where there is a GPU)." >&2
            exit 2
            ;;
    esac
    driver=$(sed -n 's/^NVRM version:.* \([0-9][0-9]*\.[0-9.]*\) .*/\1/p' "$system/proc/driver/nvidia/version" 2>/dev/null || true)
    [ -n "$driver" ] || driver=$(ask_driver --query-gpu=driver_version --format=csv,noheader | sed -n '1s/^[0-9][0-9.]*$/&/p')
    devices=$(ls "$system/dev" 2>/dev/null | sed -n 's/^nvidia[0-9][0-9]*$/&/p; s/^dxg$/&/p' || true)
    [ -n "$devices" ] || devices=$(ask_driver -L) || devices=
    if [ -z "$driver$devices" ] || [ "$devices$driver" = dxg ]; then
        cuda_why="no NVIDIA driver found, so that training uses the CPU"
    elif [ -z "$devices" ]; then
        cuda_why="the NVIDIA driver $driver is loaded, but there is no /dev/nvidia0; a container must be started with its GPUs"
    elif [ -n "$driver" ] && [ "$(printf '%s\n' "$oldest_driver" "$driver" | sort -V | head -n 1)" != "$oldest_driver" ]; then
        cuda_why="the NVIDIA driver $driver is older than $oldest_driver, which CUDA 12 needs: update it, then run this again"
    else
        cuda=yes cuda_why="NVIDIA driver ${driver:-of unknown version}"
    fi
}

state() {
    echo "$stack $wish" \
        "$(cat "requirements/$stack.txt" "requirements/$stack-cuda.txt" setup.py pyproject.toml client/pyproject.toml \
            client/htr_client/version.py setup_env.sh | cksum)" \
        "$cuda ($cuda_why)"
    echo "$place"
}

choose_cuda

case $stack in
    current | portable)  # the interpreter may have been removed or upgraded since
        [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(state)" ] && .venv/bin/python -c pass 2>/dev/null && exit 0
        ;;
esac

current_pythons="3.12 3.13 3.11"  # in this order: 3.12 is what the images have
portable_pythons=3.10
current_glibc=2.39  # of the wheels of ml-metadata 1.21

given=
if [ -n "${HTR_PYTHON:-}" ]; then
    given=$("$HTR_PYTHON" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])') || {
        echo "HTR_PYTHON=$HTR_PYTHON is no Python with venv. Name another, or unset HTR_PYTHON." >&2
        exit 1
    }
fi

find_python() {  # find_python VERSION...: prints the first of these with venv; HTR_PYTHON or none where that is set
    for wanted; do
        if [ -n "${HTR_PYTHON:-}" ]; then
            [ "$given" = "$wanted" ] && { command -v "$HTR_PYTHON"; return 0; }
            continue
        fi
        for candidate in \
            python"$wanted" \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$wanted"*/bin/python \
            "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}"/cpython-"$wanted"*/bin/python"$wanted" \
            "$HOME"/miniconda3/envs/*/bin/python"$wanted" /opt/python/cp"$(echo "$wanted" | tr -d .)"-*/bin/python \
            /usr/local/bin/python"$wanted" /opt/homebrew/bin/python"$wanted" python3 python
        do
            version=$("$candidate" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
            [ "$version" = "$wanted" ] && { command -v "$candidate"; return 0; }
        done
    done
    return 1
}

no_python() {  # no_python VERSIONS WHY
    [ -z "$given" ] || {
        echo "$2 HTR_PYTHON=$HTR_PYTHON is Python $given, but it must be one of: $1. Name another, or unset HTR_PYTHON." >&2
        exit 1
    }
    cat >&2 <<MESSAGE
$2
None of Python $1 (with venv) was found on the PATH, nor where pyenv, uv or conda keep interpreters.
Install one, for example with
    pyenv install ${1%% *}          uv python install ${1%% *}          apt-get install python${1%% *}-venv
or point HTR_PYTHON at one, then run the same command again.
MESSAGE
    exit 1
}

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/.* //')
oldest=$(printf '%s\n' "$current_glibc" "${glibc:-0}" | sort -V | head -n 1)
case $stack in
    current)
        [ "$oldest" = "$current_glibc" ] || {
            echo "The current stack needs glibc $current_glibc or later (Debian 13, Ubuntu 24.04); this machine has ${glibc:-none}." >&2
            exit 1
        }
        python=$(find_python $current_pythons) || no_python "$current_pythons" "The current stack is wanted ($why)."
        ;;
    portable)
        python=$(find_python $portable_pythons) || no_python "$portable_pythons" "The portable stack is wanted ($why)."
        ;;
    "")
        if [ "$oldest" != "$current_glibc" ]; then
            stack=portable why="glibc is ${glibc:-not there}, the current stack needs $current_glibc"
            python=$(find_python $portable_pythons) || no_python "$portable_pythons" "The portable stack it must be: $why."
        elif python=$(find_python $current_pythons); then
            stack=current why="glibc is $glibc"
        else
            stack=portable why="none of Python $current_pythons was found, which the current stack needs"
            python=$(find_python $portable_pythons) || no_python "$current_pythons $portable_pythons" ""
        fi
        ;;
    *)
        echo "HTR_STACK=$stack: there are 'current' and 'portable'." >&2
        exit 2
        ;;
esac
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# One dependency (pyfarmhash) has no wheel: better to say so now than after minutes of downloading.
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || {
    echo "A C++ compiler is needed to build one package (pyfarmhash): install g++ (Debian, Ubuntu: apt-get install g++)." >&2
    exit 1
}
header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
[ -f "$header" ] || {
    echo "The Python headers are missing ($header): install them (Debian, Ubuntu: apt-get install python$version-dev)." >&2
    exit 1
}

echo "Setting up .venv with the $stack stack ($why): $("$python" --version)," \
    "$(sed -n 's/^\(tfx\)==/TFX /p; s/^\(tensorflow\)==/TensorFlow /p' "requirements/$stack.txt" | sort | paste -s -d ' ')" \
    "($([ $cuda = yes ] && echo "about 8 GB" || echo "about 4 GB"); a minute or two the first time)" >&2
echo "CUDA's libraries for a GPU: $cuda ($cuda_why). htr doctor says more." >&2
# Where venv was interrupted there is a Python without pip.
{ [ "${installed_in:-$place}" = "$place" ] && .venv/bin/python -m pip --version >/dev/null 2>&1 \
    && [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; } \
    || "$python" -m venv --clear .venv
printf '%s\n' "$stack $wish unfinished" "$place" > "$stamp"
# uv installs the lock file many times faster than pip; it must not fetch interpreters of its own.
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.*"
# Compiled now, since where Python may not write its bytecode each command would compile thousands of files anew.
export UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 VIRTUAL_ENV="$PWD/.venv"
set -- --requirement "requirements/$stack.txt"
[ $cuda = no ] || set -- "$@" --requirement "requirements/$stack-cuda.txt"
.venv/bin/uv pip install --quiet "$@"
# TensorFlow 2.21 looks for all of CUDA's libraries but cuSOLVER in the folders of these packages, and without one of
# them it uses no GPU: a link leads it there.
link=.venv/lib/python$version/site-packages/nvidia/cusparse/lib/libcusolver.so.11
rm -f "$link"
[ $cuda = no ] || ln -s ../../cusolver/lib/libcusolver.so.11 "$link"
[ "$wish" != 0 ] || .venv/bin/uv pip uninstall --quiet $(sed -n 's/^\(nvidia-[^=]*\)==.*/\1/p' "requirements/$stack-cuda.txt")
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation --editable ./client --editable .
state > "$stamp"
