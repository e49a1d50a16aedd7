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
# since Slurm 22.05 srun does not inherit it from sbatch
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# omfa's processes exit together with one status, which --kill-on-bad-exit would hide; 30 s after the
# first exit Slurm kills those that wait for a lost task
status=0
srun --kill-on-bad-exit=0 --wait=30 omfa train --config "$config" --workdir "$workdir" "$@" ||
  status=$?
# 143: stopped by a signal (time limit, preemption) and saved; resumes. 2: an error that a restart
# cannot fix. Others (75: network or device; 128 + signal: a killed task or lost host; 1: any other
# error): resumes from the last checkpoint, at most OMFA_MAX_RESTARTS times.
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
