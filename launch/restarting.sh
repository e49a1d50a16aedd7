#!/usr/bin/env bash
# launch/restarting.sh COMMAND [ARGUMENT ...]
# Runs COMMAND and restarts it, from its last checkpoint, after failures that a restart can fix, at
# most OMFA_MAX_RESTARTS (20) times. All hosts of a job decide alike: its processes exit together with
# one status.
set -euo pipefail
restarts=0 pid="" asked=""
# forwards a signal to the command, which saves and exits; between attempts it prevents the next one
stop() {
  asked=1
  if [ -n "$pid" ]; then kill -TERM "$pid" 2>/dev/null || true; fi
}
trap stop TERM INT
while true; do
  "$@" &
  pid=$!
  # a signal that came before the pid was known
  if [ -n "$asked" ]; then stop; fi
  status=0
  wait "$pid" || status=$?
  while kill -0 "$pid" 2>/dev/null; do
    status=0
    wait "$pid" || status=$?
  done
  pid=""
  # 0: done. 2: a restart cannot fix it. 130, 143: stopped by a signal.
  case $status in
    0 | 2 | 130 | 143) exit "$status" ;;
  esac
  if [ -n "$asked" ]; then exit 143; fi
  if [ "$restarts" -ge "${OMFA_MAX_RESTARTS:-20}" ]; then
    exit "$status"
  fi
  restarts=$((restarts + 1))
  echo "launch/restarting.sh: ended with status $status; restart $restarts" >&2
  # gives the old processes time to release ports and devices, in steps of a second because bash
  # handles signals between commands only
  for ((waited = 0; waited < ${OMFA_RESTART_WAIT_S:-10}; waited++)); do
    if [ -n "$asked" ]; then exit 143; fi
    sleep 1
  done
  if [ -n "$asked" ]; then exit 143; fi
done
