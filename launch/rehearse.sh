#!/usr/bin/env bash
# launch/rehearse.sh [FOLDER]
# A dress rehearsal of a cluster that keeps everything in a bucket, on this machine in some minutes:
# starts a server of gs://, builds records into it, trains on two processes from it, kills one, lets
# the job start again, exports the model and samples with it. FOLDER (default: a temporary one)
# gets the logs. Needs the package with the extras gcs and dev, and its bin folder in PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
bucket=gs://bucket/rehearsal
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 OMFA_RESTART_WAIT_S=1 TQDM_DISABLE=1
eval "$(python tools/gs_emulator.py start)"
trap 'python tools/gs_emulator.py stop' EXIT

rows=()
step() { # NAME COMMAND...: runs it with a log of its own, and notes its time
  local name=$1 log="$folder/$1.log" before=$SECONDS
  shift
  echo "rehearsal: $name"
  if ! "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "launch/rehearse.sh: $name failed; see $log" >&2
    exit 1
  fi
  rows+=("$(printf '%-12s %4d s  %s' "$name" $((SECONDS - before)) "$(tail -n 1 "$log")")")
}

steps=40
flags=(--config.data.records="$bucket/records" --config.train.steps="$steps"
  --config.checkpoint.every_steps=10 --config.log.every_steps=5 --config.log.samples_every_steps=0
  --config.train.batch_size=8 --config.optimizer.name=adamw --config.mesh.fsdp=2)

saved() { # the newest committed step in the bucket, or 0
  python - "$bucket/run/checkpoints" <<'PY'
import sys
from omfa_jax.train.checkpoints.integrity import find_newest_complete_step
from omfa_jax.core.paths import to_path
print(find_newest_complete_step(to_path(sys.argv[1])) or 0)
PY
}

train() {
  launch/restarting.sh launch/local.sh 2 configs/demo.py "$bucket/run" "${flags[@]}" &
  job=$!
  until [ "$(saved)" -gt 0 ]; do
    kill -0 "$job" || wait "$job"
    sleep 2
  done
  # one process of the two, as a lost host; the other ends within a minute and the job starts again
  killed_at=$SECONDS
  pkill -KILL -n -f "omfa train --config configs/demo.py --workdir $bucket/run"
  echo "rehearsal: killed one process after a checkpoint"
  wait "$job"
  echo "killed after the first checkpoint, done $((SECONDS - killed_at)) s later, at step $(saved)"
}

step synthesize omfa data synthesize --out "$folder/raw" --train 24 --test 4
step build omfa data build --raw "$folder/raw" --out "$bucket/records"
step train train
step export python convert_weights.py export "$bucket/run" --out "$bucket/export"
step sample omfa sample --checkpoint "$bucket/export" --task try_off \
  --person "$folder/raw/test/image/$(find "$folder/raw/test/image" -type f -printf '%f\n' | sort | head -n 1)" \
  --out "$bucket/pictures" --steps 5

printf '%s\n' "${rows[@]}"
python - "$bucket" <<'PY'
import sys
from omfa_jax.core.paths import to_path
for name in ("records", "run", "export", "pictures"):
    tree = to_path(f"{sys.argv[1]}/{name}").list_tree()
    print(f"{name:12} {len(tree):4d} objects, {sum(tree.values()) / 1e6:8.1f} MB")
PY
echo "rehearsal: done; logs are in $folder"
