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
# srun no longer takes it from sbatch
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# the tasks end together by themselves, and with one status, which a kill at the first bad exit would
# hide; half a minute after the first has ended, those that wait for a lost one are killed
status=0
srun --kill-on-bad-exit=0 --wait=30 omfa train --config "$config" --workdir "$workdir" "$@" ||
  status=$?
# 143: asked to stop (time limit, preemption) and saved, the job goes on where it was. 2: an error
# that no restart mends. All else (75: the network, a device; 128 + a signal: a killed task or a lost
# host; 1: an error that nobody foresaw): the job goes on from the last save, so many times.
case $status in
  0 | 2) ;;
  143) scontrol requeue "$SLURM_JOB_ID" ;;
  *)
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "${OMFA_MAX_RESTARTS:-20}" ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$status"
