#!/usr/bin/env bash
# launch/restarting.sh COMMAND [ARGUMENT ...]
# Runs it again, from its last save, while a restart may mend what ended it: on every host of a job
# alike, for its processes end together and with one status. OMFA_MAX_RESTARTS (20) times at most.
set -euo pipefail
restarts=0 pid="" asked=""
# a signal reaches the command, which saves and ends; between two attempts there is none to start
stop() {
  asked=1
  if [ -n "$pid" ]; then kill -TERM "$pid" 2>/dev/null || true; fi
}
trap stop TERM INT
while true; do
  "$@" &
  pid=$!
  # one that came before there was a pid
  if [ -n "$asked" ]; then stop; fi
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do
    status=0
    wait "$pid" || status=$?
  done
  pid=""
  # 0: done. 2: no restart mends it. 130, 143: asked to stop.
  case $status in
    0 | 2 | 130 | 143) exit "$status" ;;
  esac
  if [ -n "$asked" ]; then exit 143; fi
  if [ "$restarts" -ge "${OMFA_MAX_RESTARTS:-20}" ]; then
    exit "$status"
  fi
  restarts=$((restarts + 1))
  echo "launch/restarting.sh: ended with status $status; restart $restarts" >&2
  # ports and devices of the old processes are given back meanwhile; bash hears a signal after each
  # second of it
  for ((waited = 0; waited < ${OMFA_RESTART_WAIT_S:-10}; waited++)); do
    if [ -n "$asked" ]; then exit 143; fi
    sleep 1
  done
  if [ -n "$asked" ]; then exit 143; fi
done
