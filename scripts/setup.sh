#!/usr/bin/env bash
# Sets up all that `make demo` and `make test` need, in .venv. Make runs it when it has changed, or
# pyproject.toml or constraints.txt. Without root or apt-get it names the system packages that are
# missing and goes on without FFCV.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON="${PYTHON:-python3}"
VENV=.venv
LOG=$VENV/setup.log
# constraints.txt holds versions that were tested together, and which have files for these.
PINNED_FOR="3.11 3.12 3.13 3.14"

mkdir -p "$VENV"
: >"$LOG"

say() { printf 'setup: %s\n' "$*"; }

# step TEXT COMMAND…: one line that says what is done, how it went and how long it took.
step() {
    local text=$1 start=$SECONDS
    shift
    printf 'setup: %s ... ' "$text"
    printf '\n== %s\n' "$text" >>"$LOG"
    if "$@" >>"$LOG" 2>&1 </dev/null; then
        printf 'done (%d s)\n' $((SECONDS - start))
    else
        printf 'FAILED (%d s)\n' $((SECONDS - start))
        return 1
    fi
}

give_up() {
    say "$1"
    if [ -s "$LOG" ]; then
        say "the last lines of $LOG:"
        tail -n 15 "$LOG"
    fi
    exit 1
}

# ---- system packages -------------------------------------------------------------------------

missing_for_python() {
    if ! command -v "$PYTHON" >/dev/null; then
        echo python3 python3-venv
    elif ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian names the package after the interpreter: python3-venv, python3.12-venv.
        echo "$(basename "$PYTHON")-venv"
    fi
}

missing_for_ffcv() {
    local found=
    command -v c++ >/dev/null || echo g++
    if ! command -v pkg-config >/dev/null; then
        echo pkg-config libturbojpeg0-dev libopencv-dev
    else
        pkg-config --exists libturbojpeg || echo libturbojpeg0-dev
        pkg-config --exists opencv4 || pkg-config --exists opencv || echo libopencv-dev
    fi
    if command -v "$PYTHON" >/dev/null; then
        found=$("$PYTHON" -c '
import os, sysconfig
print(os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))')
    fi
    [ "$found" = True ] || echo "$(basename "$PYTHON")-dev"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends "$@"
}

with_ffcv=yes
for_python=$(missing_for_python | xargs)
for_ffcv=$(missing_for_ffcv | xargs)
if [ -z "$for_python$for_ffcv" ]; then
    say "system packages: all there"
elif can_install; then
    # shellcheck disable=SC2086  # a list of names
    step "system packages with apt-get, about 1 minute: $for_python $for_ffcv" \
        apt_install $for_python $for_ffcv || say "apt-get could not install them; see $LOG"
else
    say "no root rights or no apt-get here: the packages below must be installed by hand"
fi

# Only continuous integration is given a browser, for the tests of reports. Debian has the lightest.
missing_browser() {
    local name
    for name in chromium-headless-shell chromium chromium-browser google-chrome; do
        ! command -v "$name" >/dev/null || return 1
    done
}

if [ "${EQUIPOISE_REQUIRE_FFCV:-0}" != 0 ] && missing_browser && can_install; then
    step "headless Chromium with apt-get, about 20 seconds" \
        apt_install chromium-headless-shell || say "apt-get could not install it; see $LOG"
fi

for_python=$(missing_for_python | xargs)
[ -z "$for_python" ] || give_up "Python cannot make an environment; install first: $for_python"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    give_up "expected Python 3.10 or later, but $PYTHON is $("$PYTHON" -V 2>&1); name another with PYTHON=…"

for_ffcv=$(missing_for_ffcv | xargs)
if [ -n "$for_ffcv" ]; then
    with_ffcv=no
    say "GOING ON WITHOUT FFCV: it needs the system packages $for_ffcv; install them, then: make setup"
fi

# ---- the environment ---------------------------------------------------------------------------

if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    step "virtual environment in $VENV, $("$PYTHON" -V 2>&1), about 10 seconds" \
        "$PYTHON" -m venv "$VENV" || give_up "could not make the environment"
fi
python=$VENV/bin/python

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
pins=(-c constraints.txt)
if [[ " $PINNED_FOR " != *" $version "* ]]; then
    pins=()
    say "constraints.txt is for Python $PINNED_FOR, this is $version: taking the newest versions that fit"
fi

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input \
        ${pins[@]+"${pins[@]}"} "$@"
}

size=
"$python" -c 'import torch' >/dev/null 2>&1 || size=", about 5 GB with PyTorch, 2 to 5 minutes"
step "equipoise and its extras$size" pip_install -e '.[test]' ||
    give_up "pip could not install the package"

if [ $with_ffcv = yes ]; then
    hint=
    "$python" -c 'import ffcv' >/dev/null 2>&1 || hint=", built from source, about 1 minute"
    if ! { step "FFCV$hint" pip_install -e '.[ffcv]' &&
        step "FFCV can be imported" "$python" -c 'import ffcv'; }; then
        with_ffcv=no
        say "GOING ON WITHOUT FFCV: it could not be built; see $LOG"
    fi
fi

if [ $with_ffcv = yes ]; then
    say "ready, with FFCV, after $SECONDS s"
else
    say "ready, without FFCV, after $SECONDS s: batches come through torch.utils.data.DataLoader, FFCV's tests are skipped"
fi
