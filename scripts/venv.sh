#!/bin/sh
# Install the package into .venv:  sh scripts/venv.sh demo|test|doc   (every target of `make` runs this first)
#
# A finished installation is marked by the stamp .venv/.installed-WHAT, which is written last; if the stamp matches, the
# script returns at once. The file .venv/.unfinished exists while packages are installed: an interrupted environment is
# deleted and created again. So is an environment whose Python does not run or is too old, and one that was copied or
# moved (its scripts and its link to the sources would still point to the old location).
#
# A Python that is installed on this machine is preferred, since users know and have configured it. Otherwise uv is
# used, which can download a Python.
set -eu
cd "$(dirname "$0")/.."

what=${1:?"usage: sh scripts/venv.sh demo|test|doc"}
oldest=$(sed -n 's/^requires-python = ">=\([0-9.]*\)"$/\1/p' pyproject.toml)
enough="sys.version_info[:2] >= ($(echo "$oldest" | tr . ,)) and sys.implementation.name == 'cpython'"
here=$(pwd -P)
py=.venv/bin/python
case $what in
    demo) set -- -e . ;;
    test) set -- -e . --group test ;;
    doc) set -- -e . --group doc ;;
    *) echo "unknown environment '$what': demo, test or doc" >&2 && exit 2 ;;
esac

fail() {
    echo "$*" >&2
    exit 1
}

# Each candidate is executed: shims of version managers may exist but fail, and Debian's Python may lack ensurepip.
usable() {
    "$1" -c "import sys, ensurepip, venv; sys.exit(not ($enough))" >/dev/null 2>&1 </dev/null
}

# The oldest sufficient Python comes first: every dependency has wheels for it, and it is tested most.
# The folders of pyenv are searched too, since .python-version makes its shims fail if only a newer Python is installed.
find_python() (
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON does not run, is no CPython >= $oldest or has no venv: looking for another" >&2
    fi
    folders=$PATH
    for folder in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin; do folders=$folders:$folder; done
    IFS=:
    for name in python3.12 python3.13 python3.14 python3 python; do
        for folder in $folders; do
            [ -x "$folder/$name" ] && usable "$folder/$name" && echo "$folder/$name" && return
        done
    done
    return 1
)

healthy() {
    [ ! -e .venv/.unfinished ] && [ "$(cat .venv/.place 2>/dev/null || echo "$here")" = "$here" ] &&
        "$py" -c "import sys, pip; sys.exit(not ($enough and sys.prefix != sys.base_prefix))" >/dev/null 2>&1
}

create() {
    [ ! -e .venv ] || echo ".venv is unfinished, was moved or has no working Python >= $oldest: making it anew" >&2
    rm -rf .venv || fail ".venv could not be removed: is another command still installing into it?"
    if found=$(find_python); then
        echo "Making .venv with $found ($("$found" -V))" >&2
        mkdir .venv && : >.venv/.unfinished
        "$found" -m venv .venv || fail "Making .venv with $found failed (its message is above)."
    elif command -v uv >/dev/null; then
        echo "No Python >= $oldest here: uv makes .venv and fetches one" >&2
        mkdir .venv && : >.venv/.unfinished
        uv venv --quiet --seed --allow-existing --python "$oldest" .venv || fail "uv could not make .venv (see above)."
    else
        fail "No Python >= $oldest with venv found (nor uv): install one (Debian, Ubuntu: python3-venv too)" \
            "or name it: make PYTHON=/path/to/python$oldest"
    fi
}

pip() {
    "$py" -m pip --disable-pip-version-check --no-input install "$@"
}

healthy || create
stamp=.venv/.installed-$what
wanted="$(cat pyproject.toml scripts/venv.sh | cksum) $("$py" -V)"
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0

# If packages are installed already, a dry run of pip comes first, so that a failure leaves the environment intact.
pip --quiet 'pip>=25.1' || fail "pip could not be brought to 25.1 or newer (its message is above)."
[ -z "$(ls .venv/.installed-* 2>/dev/null)" ] || pip --quiet --dry-run "$@" >/dev/null
: >.venv/.unfinished
pip "$@" || fail "The installation did not finish (pip's message is above). Run the same command again: it starts afresh."
rm .venv/.unfinished
echo "$here" >.venv/.place
echo "$wanted" >"$stamp"
[ "$what" != test ] || echo "$wanted" >.venv/.installed-demo # the test environment includes the demo's packages
