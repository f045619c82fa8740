#!/usr/bin/env bash
# Installs the locked dependencies into .venv; safe to run again. --with=EXTRA[,EXTRA] adds optional worlds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

UV_VERSION=0.13.9
fail() { printf 'setup.sh: %s\n' "$1" >&2; exit 2; }

extras=()
for argument in "$@"; do
  case "$argument" in
    --with=?*)
      IFS=, read -ra names <<<"${argument#--with=}"
      for name in "${names[@]}"; do
        grep -qE "^$name = \[" <(sed -n '/^\[project.optional-dependencies\]/,/^$/p' pyproject.toml) ||
          fail "there is no extra '$name'; the extras are: $(sed -n '/^\[project.optional-dependencies\]/,/^$/s/ = \[.*//p' pyproject.toml | paste -sd' ')."
        extras+=("$name")
      done ;;
    -h | --help) printf 'Usage: ./setup.sh [--with=EXTRA,...]\n'; exit 0 ;;
    *) fail "unknown argument '$argument'; usage: ./setup.sh [--with=EXTRA,...]" ;;
  esac
done

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
  fail "Reverb is published for Linux on x86-64 only, and this is $(uname -s) on $(uname -m): use such a machine or a container."
python=$(command -v python3.11 || command -v python3 || command -v python) ||
  fail "no Python was found: install Python 3.11."

# An extra that was chosen once stays until .venv is removed.
if [ -f .venv/encore-extras ]; then
  mapfile -t kept <.venv/encore-extras
  extras+=("${kept[@]}")
fi
mapfile -t extras < <(printf '%s\n' "${extras[@]}" | sed '/^$/d' | sort -u)

# uv is a package like any other: the system's, else one of our own beside the environment.
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  if [ "$(cat .uv/version 2>/dev/null)" != "$UV_VERSION" ]; then
    printf 'Encore: fetching uv %s\n' "$UV_VERSION"
    rm -rf .uv
    "$python" -m pip install --quiet --disable-pip-version-check --target .uv "uv==$UV_VERSION" 2>/dev/null ||
      { rm -rf .uv && "$python" -m venv .uv && .uv/bin/pip install --quiet "uv==$UV_VERSION"; } ||
      fail "uv could not be installed with $python: it needs pip (Debian: apt-get install python3-pip) and a way to the package index."
    printf '%s\n' "$UV_VERSION" >.uv/version
  fi
  uv=.uv/bin/uv
fi

sync=("$uv" sync --locked --inexact --compile-bytecode "${extras[@]/#/--extra=}")
if [ -f .venv/encore-lock ]; then
  printf 'Encore: bringing .venv to what the lock says\n'
else
  printf 'Encore: installing the locked dependencies into .venv (about 3 GB)\n'
  sync+=(--quiet)
fi
# Without compiled bytecode TensorFlow's import takes 10 s instead of 3.
install() { "${sync[@]}" "$@" || fail "uv could not install the locked dependencies; its own message stands above."; }
compare() { .venv/bin/python -I -S tools/installed.py uv.lock .venv/lib/python3*/site-packages; }
install

# uv looks at names and versions only; packages that share a folder overwrite and remove each other's files.
mapfile -t broken < <(compare | sed -n 's/^broken //p')
if [ ${#broken[@]} -gt 0 ]; then
  printf 'Encore: installing again, because files are missing or changed: %s\n' "${broken[*]}"
  install "${broken[@]/#/--reinstall-package=}"
fi
report=$(compare) || fail "what is installed cannot be compared with the lock: remove .venv and run ./setup.sh again."
broken_still=$(sed -n 's/^broken //p' <<<"$report" | paste -sd' ')
[ -z "$broken_still" ] || fail "files are still missing or changed of: $broken_still; remove .venv and run ./setup.sh again."
beside=$(sed -n 's/^beside //p' <<<"$report" | paste -sd' ')
[ -z "$beside" ] || printf 'Encore: kept, though the lock does not name it: %s\n' "$beside"

printf '%s\n' "${extras[@]}" >.venv/encore-extras
# ./run sets up again when the lock differs from this one, or packages came or went after this was written.
cp uv.lock .venv/encore-lock
printf 'Encore: ready\n'
