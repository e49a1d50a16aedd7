#!/usr/bin/env bash
#SBATCH --job-name=omfa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
# sbatch launch/slurm.sh CONFIG WORKDIR [--config.a.b=value ...]
set -euo pipefail
config=$1
workdir=$2
shift 2
srun omfa train --config "$config" --workdir "$workdir" "$@"
