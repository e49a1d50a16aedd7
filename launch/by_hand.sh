#!/usr/bin/env bash
# launch/by_hand.sh HOST:PORT COUNT INDEX CONFIG WORKDIR [--config.a.b=value ...]
# Run it on COUNT hosts with INDEX 0..COUNT-1; HOST:PORT is host 0's and reachable from all hosts.
set -euo pipefail
export JAX_COORDINATOR_ADDRESS=$1 JAX_NUM_PROCESSES=$2 JAX_PROCESS_ID=$3
config=$4
workdir=$5
shift 5
"$(dirname "$0")/restarting.sh" omfa train --config "$config" --workdir "$workdir" "$@"
