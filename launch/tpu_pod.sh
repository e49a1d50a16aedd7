#!/usr/bin/env bash
# launch/tpu_pod.sh NAME ZONE TYPE CONFIG WORKDIR [--config.a.b=value ...]
# Waits in the queue for a TPU slice (TYPE is Google's accelerator type: v5litepod-256, v4-32),
# installs this project on every host from the folder OMFA_SOURCE, and trains. WORKDIR and
# OMFA_SOURCE must be mounted on all hosts (Filestore, or a bucket through gcsfuse).
set -euo pipefail
name=$1
zone=$2
type=$3
config=$4
workdir=$5
shift 5
: "${OMFA_TPU_IMAGE:=v2-alpha-tpuv5-lite}" "${OMFA_SOURCE:?the folder of this project, as the hosts see it}"

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
# a separate Python on each host, as the image's is too old, and a copy of the sources to build from
on_every_host "command -v uv || pip install --quiet uv || python3 -m pip install --quiet uv
  PATH=\$HOME/.local/bin:\$PATH uv venv --quiet --python 3.11 \$HOME/omfa
  cp -r '${OMFA_SOURCE}' \$HOME/omfa/source
  PATH=\$HOME/.local/bin:\$PATH uv pip install --quiet --python \$HOME/omfa \$HOME/omfa/source[tpu]"
# quotes each argument once more for the remote shells
command=$(printf '%q ' omfa train --config "$config" --workdir "$workdir" "$@")
# detached, to outlive this connection; restarted on failures; logs are next to the checkpoints
on_every_host "cd '$OMFA_SOURCE' && PATH=\$HOME/omfa/bin:\$PATH nohup launch/restarting.sh $command \
  >> '$workdir'/\$(hostname).log 2>&1 &"
echo "training; see $workdir/*.log"
