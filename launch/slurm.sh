#!/usr/bin/env bash
#SBATCH --job-name=omfa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
# sbatch launch/slurm.sh CONFIG WORKDIR [--config.a.b=value ...]
set -euo pipefail
config=$1
workdir=$2
shift 2
# one dead task would leave the others waiting
status=0
srun --kill-on-bad-exit=1 omfa train --config "$config" --workdir "$workdir" "$@" || status=$?
# 143: asked to stop (time limit, preemption) and saved, the job goes on where it was; 134 and 137:
# a task was killed, or lost one that was, the job goes on from the last save, a few times
restarts=${SLURM_RESTART_COUNT:-0}
if [ "$status" -eq 143 ] ||
  { { [ "$status" -eq 134 ] || [ "$status" -eq 137 ]; } && [ "$restarts" -lt "${OMFA_MAX_RESTARTS:-20}" ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
