#!/usr/bin/env bash
# launch/local.sh COUNT CONFIG WORKDIR [--config.a.b=value ...]
# Trains with COUNT processes on this host, one GPU each, as a cluster would; without GPUs they share
# the CPU. The first failure ends all of them, and so does a signal to this script.
set -euo pipefail
count=$1
config=$2
workdir=$3
shift 3
export JAX_COORDINATOR_ADDRESS=localhost:${OMFA_PORT:-29400} JAX_NUM_PROCESSES=$count
pids=() killer=""
stop() {
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
}
# a process that is stopped or hangs does not act on TERM
kill_hung() {
  sleep "${OMFA_KILL_WAIT_S:-60}"
  for pid in "${pids[@]}"; do
    kill -KILL "$pid" 2>/dev/null || true
  done
}
trap stop TERM INT
for ((index = 0; index < count; index++)); do
  JAX_PROCESS_ID=$index CUDA_VISIBLE_DEVICES=$index \
    omfa train --config "$config" --workdir "$workdir" "$@" &
  pids+=($!)
done
status=0
# a signal ends a wait early: until none is left
while [ -n "$(jobs -rp)" ]; do
  ended=0
  wait -n || ended=$?
  if [ "$ended" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$ended
    stop
    kill_hung &
    killer=$!
    disown "$killer"
  fi
done
if [ -n "$killer" ]; then kill "$killer" 2>/dev/null || true; fi
exit "$status"
