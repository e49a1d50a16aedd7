#!/usr/bin/env bash
# launch/restarting.sh COMMAND [ARGUMENT ...]
# Runs it again, from its last save, while a restart may mend what ended it: on every host of a job
# alike, for its processes end together and with one status. OMFA_MAX_RESTARTS (20) times at most.
set -euo pipefail
restarts=0
while true; do
  "$@" &
  pid=$!
  # a signal reaches the command, which saves and ends
  trap 'kill -TERM "$pid" 2>/dev/null || true' TERM INT
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do
    status=0
    wait "$pid" || status=$?
  done
  # 0: done. 2: no restart mends it. 130, 143: asked to stop.
  case $status in
    0 | 2 | 130 | 143) exit "$status" ;;
  esac
  if [ "$restarts" -ge "${OMFA_MAX_RESTARTS:-20}" ]; then
    exit "$status"
  fi
  restarts=$((restarts + 1))
  echo "launch/restarting.sh: ended with status $status; restart $restarts" >&2
  # ports and devices of the old processes are given back meanwhile
  sleep "${OMFA_RESTART_WAIT_S:-10}"
done
