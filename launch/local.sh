#!/usr/bin/env bash
# Starts the separate programs of one run on this machine, to see by hand how they fit together. `./run train
# --num_workers` is the usual way: it also starts again what dies.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

GRACE_S=75 # a program saves and ends within 60 s of SIGTERM
usage() {
  printf '%s\n' "Usage: launch/local.sh --hparams=NAME --output_dir=FOLDER [flags] [-- flags for every program]" \
    "  --hparams     the hyper-parameters: names in configs/, joined by -" \
    "  --output_dir  the run's folder; what each program says is in its logs/" \
    "  --num_actors  how many actors (1)" \
    "  --port        of the first replay server; the others have those after it (8000)" \
    "  --shards      how many replay servers (1)"
}
fail() { printf 'local.sh: %s\n' "$1" >&2; exit 2; }

hparams='' output_dir='' num_actors=1 port=8000 shards=1
while [ $# -gt 0 ]; do
  case "$1" in
    --hparams=*) hparams=${1#*=} ;;
    --output_dir=*) output_dir=${1#*=} ;;
    --num_actors=*) num_actors=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --shards=*) shards=${1#*=} ;;
    --) shift; break ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown argument '$1': flags are written --name=value, and those of the programs stand after --; see launch/local.sh --help." ;;
  esac
  shift
done
[ -n "$hparams" ] || fail "no hyper-parameters were chosen: add --hparams=NAME, for example --hparams=dqn_cartpole."
[ -n "$output_dir" ] || fail "no folder was chosen for the run: add --output_dir=FOLDER."
for flag in num_actors port shards; do
  [[ ${!flag} =~ ^[1-9][0-9]{0,4}$ ]] || fail "--$flag=${!flag}: it must be a whole number from 1 to 99999."
done
logs=$output_dir/logs
mkdir -p "$logs" 2>/dev/null || fail "--output_dir=$output_dir cannot be written."
# The first use installs; several programs must not do so at once.
"$root/run" train --list >/dev/null

common=("--hparams=$hparams" "$@")
names=() pids=() told=()

# start NAME PROGRAM FLAG...
start() {
  local name=$1
  shift
  # A session of its own, so that Ctrl-C reaches this script alone; SIGTERM where the script is killed.
  setpriv --pdeathsig TERM setsid "$root/run" "$@" "${common[@]}" >>"$logs/$name.log" 2>&1 </dev/null &
  names+=("$name") pids+=($!) told+=('')
}

alive() { kill -0 "$1" 2>/dev/null; }
# `wait` is what a signal can interrupt.
pause() { sleep 0.2 & wait $! || true; }

# Says which programs failed since last asked.
look() {
  local i code
  for i in "${!pids[@]}"; do
    if [ -n "${told[i]}" ] || alive "${pids[i]}"; then continue; fi
    code=0 && wait "${pids[i]}" || code=$?
    told[i]=$code
    [ "$code" = 0 ] || printf 'local.sh: %s ended with status %s: %s\n' "${names[i]}" "$code" "$(tail -n 1 "$logs/${names[i]}.log")" >&2
    # What starting again does not mend, the others would only wait for.
    if [ "$code" = 2 ]; then user_error=yes; fi
  done
}

any_alive() {
  local i
  for i in "${!pids[@]}"; do
    # shellcheck disable=SC2053 # a pattern
    if [[ ${names[i]} == $1 ]] && alive "${pids[i]}"; then return 0; fi
  done
  return 1
}

# end PATTERN: asks the programs of these names to stop, and waits for them.
end() {
  local i deadline=$((SECONDS + GRACE_S)) signal=TERM
  while any_alive "$1"; do
    for i in "${!pids[@]}"; do
      # shellcheck disable=SC2053 # a pattern
      if [[ ${names[i]} == $1 && $signal ]]; then kill -s "$signal" "${pids[i]}" 2>/dev/null || true; fi
    done
    signal=
    pause
    # Asked a second time, or waited for long enough.
    if [ "$asked" -gt 1 ] || [ $SECONDS -ge $deadline ]; then signal=KILL; fi
  done
}

asked=0 user_error=
trap 'asked=$((asked + 1))' INT TERM HUP
trap 'end "*"' EXIT

replay=
for ((shard = 0; shard < shards; shard++)); do
  start "replay_$shard" replay_server --port=$((port + shard)) --shards="$shards" --checkpoint_dir="$output_dir/replay_$shard"
  replay+=${replay:+,}localhost:$((port + shard))
done
start learner learner --replay="$replay" --output_dir="$output_dir"
learner=${pids[${#pids[@]} - 1]}
for ((actor = 0; actor < num_actors; actor++)); do
  start "actor_$actor" actor --replay="$replay" --actor_id="$actor" --num_actors="$num_actors"
done
start evaluator evaluator --replay="$replay" --output_dir="$output_dir"
printf 'local.sh: %s run; what each says: %s/*.log\n' "${names[*]}" "$logs"

while [ "$asked" = 0 ] && [ -z "$user_error" ] && alive "$learner"; do
  pause
  look
done
if [ "$asked" = 0 ] && [ -z "$user_error" ] && wait "$learner"; then
  # The training is done: actors and evaluator hear of it from the replay servers, and end by themselves.
  while [ "$asked" = 0 ] && { any_alive 'actor_*' || any_alive evaluator; }; do
    pause
    look
  done
fi
# Those who write first, those who keep it last.
end '@(actor_*|evaluator)'
end learner
end 'replay_*'
look
trap - EXIT
code=0
wait "$learner" || code=$?
tail -n 1 "$logs/learner.log" "$logs/evaluator.log"
if [ "$code" = 0 ] && [ -n "$user_error" ]; then code=2; fi
exit "$code"
