"""Launch scripts of a study: Slurm, xpk (GKE) and the local machine.

Each of them calls `omfa scaling run`, which reads the runs' settings from the manifest. Finished
runs exit at once, so every script can simply be started again.
"""

from pathlib import Path

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.paths import AnyPath
from omfa_jax.parallel.topology import Topology
from omfa_jax.studies.study_manifest import Study

SLURM = """\
#!/usr/bin/env bash
#SBATCH --job-name=omfa-study
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%A_%a.log
# Submit with `sbatch {name}/slurm.sh` from the parent folder of {name}. Append %N to the array's
# range to run at most N tasks at once. Task I is run I of the manifest.
set -euo pipefail
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
study=${{OMFA_STUDY:-{folder}}}
status=0
# All tasks exit together with one status; 30 s later srun kills those that wait for a lost one.
srun --kill-on-bad-exit=0 --wait=30 omfa scaling run "$study" --index "$SLURM_ARRAY_TASK_ID" ||
  status=$?
# 143: stopped by a signal, checkpoint saved. 2: a permanent error. Else: resume the checkpoint.
case $status in
  0 | 2) ;;
  143) scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" ;;
  *)
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt "${{OMFA_MAX_RESTARTS:-20}}" ]; then
      scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    fi
    ;;
esac
exit "$status"
"""

LOCAL = """\
#!/usr/bin/env bash
# Usage: {name}/local.sh [--parallel N]. Runs the study on this machine. Ctrl-C and SIGTERM save a
# checkpoint, and the same command resumes, also after a kill.
set -euo pipefail
exec omfa scaling run "${{OMFA_STUDY:-{folder}}}" "$@"
"""

XPK = """\
#!/usr/bin/env bash
# Usage: {name}/xpk.sh CLUSTER ZONE PROJECT IMAGE. Creates a workload for each unfinished run, and
# Kueue queues them. OMFA_STUDY is the study's folder on storage that all hosts share. Run it again
# to start the remaining runs; workloads that still exist are reported and skipped. xpk restarts a
# workload after a signal, and here also after exit codes 1 and 75, but not after 2.
set -euo pipefail
cluster=$1
zone=$2
project=$3
image=$4
study=${{OMFA_STUDY:-{folder}}}
status=0
while read -r workload run; do
  if [ -s "$study/runs/$run/result.json" ]; then continue; fi
  xpk workload create --cluster "$cluster" --zone "$zone" --project "$project" \\
    --workload "$workload" {flags} --docker-image "$image" \\
    --max-restarts "${{OMFA_MAX_RESTARTS:-20}}" --restart-on-exit-codes 1,75 \\
    --command "omfa scaling run $study --only $run" </dev/null ||
    {{ echo "not started: $workload" >&2; status=1; }}
done <<'RUNS'
{lines}
RUNS
exit "$status"
"""

LAUNCHERS = {"slurm.sh", "local.sh", "xpk.sh"}
# identifies a launch script
MARK = "omfa scaling run"

# xpk's device types of GPU hosts, and GPUs per host (its system_characteristics.py; A100s there are
# 40 GB); for TPUs xpk takes Google's accelerator types
XPK_GPUS = {
    "h100": ("h100-80gb-8", 8),
    "h200": ("h200-141gb-8", 8),
    "b200": ("b200-8", 8),
    "gb200": ("gb200-4", 4),
}


def write_launchers(folder: AnyPath, study: Study, topology: Topology | None) -> list[str]:
    """Write the launch scripts for `topology`, remove others, and return the files' names.

    Raises an OmfaError, and writes nothing, if a file of that name is not a launch script. slurm.sh
    is written for GPUs, xpk.sh for machines that xpk has a name for, local.sh always.
    """
    names = {"name": folder.name, "folder": folder.absolute()}
    texts = {"local.sh": LOCAL.format(**names)}
    if topology is not None:
        flags = format_xpk_flags(topology)
        if flags:
            texts["xpk.sh"] = XPK.format(**names, flags=flags, lines=format_xpk_lines(study))
        # only TPUs have a torus, and Slurm does not manage them here
        if not topology.torus:
            # a Slurm node is a host: four GPUs of a GB200 rack, not the rack
            tasks = min(topology.group, topology.chip.gpus_per_host)
            texts["slurm.sh"] = SLURM.format(
                **names,
                last=len(study.runs) - 1,
                nodes=topology.devices // tasks,
                tasks=tasks,
            )
    for name in LAUNCHERS:
        path = folder / name
        if path.is_symlink() or (path.exists() and MARK not in path.read_text(errors="replace")):
            raise OmfaError(
                f"{path} is not a launch script of a study: move it away, or change --out"
            )
    # a script of an earlier plan does not have the runs that were added since
    for name in LAUNCHERS - set(texts):
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
        if isinstance(folder, Path):
            (folder / name).chmod(0o755)
    return list(texts)


def format_xpk_lines(study: Study) -> str:
    """Return one line a run: a Kubernetes name (at most 40 characters), and the run's name."""
    lines = []
    for index, run in enumerate(study.runs):
        plain = "".join(c if c.isalnum() else "-" for c in run.name.lower())
        lines.append(f"{f'omfa-{index}-{plain}'[:40].strip('-')} {run.name}")
    return "\n".join(lines)


def format_xpk_flags(topology: Topology) -> str:
    """Return xpk's flags for the topology, "" where xpk has no type for it."""
    if topology.torus:
        return f"--tpu-type {topology.accelerator_type} --num-slices {topology.slices}"
    device_type, per_host = XPK_GPUS.get(topology.chip_name, ("", 1))
    # only complete hosts are allocated
    if not device_type or topology.devices % per_host:
        return ""
    return f"--device-type {device_type} --num-nodes {topology.devices // per_host}"
