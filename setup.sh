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

printf 'Encore: installing the locked dependencies into .venv (about 3 GB)\n'
# Without compiled bytecode TensorFlow's import takes 10 s instead of 3.
"$uv" sync --locked --quiet --compile-bytecode "${extras[@]/#/--extra=}" ||
  fail "uv could not install the locked dependencies; its own message stands above."
printf '%s\n' "${extras[@]}" >.venv/encore-extras
cp uv.lock .venv/encore-lock
printf 'Encore: ready\n'
