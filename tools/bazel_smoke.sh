#!/usr/bin/env bash
# The same through Bazel: builds every target, runs quick tests, trains for a moment. Needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v bazel >/dev/null || { printf 'bazel_smoke: Bazel is not installed (Debian: apt-get install bazel-bootstrap).\n' >&2; exit 2; }
# An inherited path would hide a dependency that no BUILD file declares.
unset PYTHONPATH

bazel build //...
imports=$(bazel query --noshow_progress 'filter("imports_", //tests:all)')
# shellcheck disable=SC2086 # one argument a target
bazel test $imports //tests:agents/test_returns //tests:test_import_order

folder=$(mktemp -d)
trap 'rm -rf "$folder"; bazel shutdown' EXIT
bazel run //binaries:train -- --hparams=dqn_cartpole --train_steps=1500 --test_episodes=2 --output_dir="$folder"
grep -q '"kind": "test"' "$folder/results.jsonl"
# The learner is a target too: without a replay server it says so.
if bazel run //binaries:learner -- --hparams=dqn_cartpole --output_dir="$folder/none" 2>"$folder/error"; then exit 1; fi
grep 'add --replay=HOST:PORT' "$folder/error"
printf 'bazel_smoke: passed\n'
