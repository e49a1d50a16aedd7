#!/usr/bin/env bash
# launch/tpu_pod.sh NAME ZONE TYPE CONFIG WORKDIR [--config.a.b=value ...]
# Waits in the queue for a TPU slice (TYPE is Google's accelerator type: v5litepod-256, v4-32),
# installs this checkout on every host, and trains. WORKDIR is gs://BUCKET/RUN, or a folder that is
# mounted on all hosts. Run again on a living slice, it stops the run, which saves, and installs and
# starts the code that is here now.
set -euo pipefail
name=$1
zone=$2
type=$3
config=$4
workdir=$5
shift 5
: "${OMFA_TPU_IMAGE:=v2-alpha-tpuv5-lite}"
source=$(cd "$(dirname "$0")/.." && pwd)

state() {
  gcloud compute tpus queued-resources describe "$name" --zone "$zone" --format='value(state.state)'
}
on_every_host() {
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"
}

if ! state >/dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$name" --node-id "$name" --zone "$zone" \
    --accelerator-type "$type" --runtime-version "$OMFA_TPU_IMAGE" ${OMFA_SPOT:+--spot}
fi
until [ "$(state)" = ACTIVE ]; do
  case $(state) in
    FAILED | SUSPENDED | SUSPENDING)
      echo "launch/tpu_pod.sh: the request $name is $(state) (preempted, or refused). Delete it:" >&2
      echo "  gcloud compute tpus queued-resources delete $name --zone $zone --force" >&2
      echo "and run this again; training resumes from the last checkpoint" >&2
      exit 1
      ;;
  esac
  sleep 30
done
archive=$(mktemp --suffix .tar.gz)
trap 'rm -f "$archive"' EXIT
tar -C "$source" -czf "$archive" --exclude=./.git --exclude=./.venv --exclude=./runs .
gcloud compute tpus tpu-vm scp "$archive" "$name:omfa_source.tar.gz" --zone "$zone" --worker=all
# the run that an earlier call started has two minutes to save; what hangs is killed
on_every_host "pid=\$(cat \$HOME/omfa.pid 2>/dev/null || true)
  if [ -n \"\$pid\" ] && kill -TERM \"\$pid\" 2>/dev/null; then
    for _ in \$(seq 120); do kill -0 \"\$pid\" 2>/dev/null || break; sleep 1; done
    pkill -KILL -P \"\$pid\" || true
  fi"
# a separate Python on each host, as the image's is too old, and new sources in place of older ones
on_every_host "set -e
  export PATH=\$HOME/.local/bin:\$PATH
  command -v uv >/dev/null || pip install --quiet uv || python3 -m pip install --quiet uv
  test -x \$HOME/omfa/bin/python || uv venv --quiet --python 3.11 \$HOME/omfa
  rm -rf \$HOME/omfa_source
  mkdir \$HOME/omfa_source
  tar -C \$HOME/omfa_source -xzf \$HOME/omfa_source.tar.gz
  uv pip install --quiet --python \$HOME/omfa/bin/python --reinstall-package omfa_jax \"\$HOME/omfa_source[tpu,gcs]\""
# quotes each argument once more for the remote shells
command=$(printf '%q ' omfa train --config "$config" --workdir "$workdir" "$@")
# detached, to outlive this connection; restarted on failures
on_every_host "cd \$HOME/omfa_source
  PATH=\$HOME/omfa/bin:\$PATH nohup launch/restarting.sh $command >> \$HOME/omfa.log 2>&1 &
  echo \$! > \$HOME/omfa.pid"
echo "training; the log is omfa.log in the home folder of every host:"
echo "  gcloud compute tpus tpu-vm ssh $name --zone $zone --worker=0 --command 'tail -f omfa.log'"
