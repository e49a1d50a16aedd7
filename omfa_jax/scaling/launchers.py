"""A study's launchers: Slurm, GKE, xpk and this machine; all end in `omfa scaling run --only`.

They carry no list of settings: the manifest has it. A finished run ends at once, so that every one
of them can simply be started again.
"""

from pathlib import Path

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.files import atomic_write
from omfa_jax.parallel.pods import Pod
from omfa_jax.scaling.manifest import Manifest

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
# sbatch {name}/slurm.sh, from the folder that {name} lies in; %N after the range limits how many
# run at once. Task I is line I of the manifest.
set -euo pipefail
export SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-1}}
study=${{OMFA_STUDY:-{folder}}}
status=0
# the tasks end together, with one status; half a minute later, what waits for a lost one is killed
srun --kill-on-bad-exit=0 --wait=30 omfa scaling run "$study" --index "$SLURM_ARRAY_TASK_ID" ||
  status=$?
# 143: asked to stop, and saved. 2: an error that no restart mends. Else: from the last save on.
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
# {name}/local.sh [--parallel N]: the study's runs on this machine. Ctrl-C and SIGTERM save; the
# same command goes on, after a kill too.
set -euo pipefail
exec omfa scaling run "${{OMFA_STUDY:-{folder}}}" "$@"
"""

XPK = """\
#!/usr/bin/env bash
# {name}/xpk.sh CLUSTER ZONE PROJECT IMAGE: a workload for each run that is not finished; Kueue
# queues them. The study must lie in a folder that all hosts see, OMFA_STUDY. Again, it starts what
# is left: a workload that is still there is named and passed over. A workload is started again
# after signals, as xpk does of itself, and after 1 and 75, but not after 2.
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
# by which a launcher is known
MARK = "omfa scaling run"

# xpk's device types of GPU hosts, and GPUs per host (its system_characteristics.py; A100s there are
# 40 GB); for TPUs xpk takes Google's accelerator types
XPK_GPUS = {
    "h100": ("h100-80gb-8", 8),
    "h200": ("h200-141gb-8", 8),
    "b200": ("b200-8", 8),
    "gb200": ("gb200-4", 4),
}


def write_launchers(folder: Path, study: Manifest, machine: Pod | None) -> list[str]:
    """Write what can start the study on `machine` and return the files' names; none else stays.

    A file of such a name that is no launcher is an OmfaError, and nothing is written. Slurm's
    array needs GPUs; xpk's list a machine that Google rents in whole hosts. Without a machine there
    is this machine's own runner alone.
    """
    names = {"name": folder.name, "folder": folder.absolute()}
    texts = {"local.sh": LOCAL.format(**names)}
    if machine is not None:
        flags = xpk_flags(machine)
        if flags:
            texts["xpk.sh"] = XPK.format(**names, flags=flags, lines=xpk_lines(study))
        if not machine.torus:
            # a Slurm node is a host: four GPUs of a GB200 rack, not the rack
            tasks = min(machine.group, machine.chip.gpus_per_host)
            texts["slurm.sh"] = SLURM.format(
                **names,
                last=len(study.runs) - 1,
                nodes=machine.devices // tasks,
                tasks=tasks,
            )
    for name in LAUNCHERS:
        path = folder / name
        if path.is_symlink() or (path.exists() and MARK not in path.read_text(errors="replace")):
            raise OmfaError(f"{path} is no launcher of a study: move it away, or change --out")
    # one of an earlier plan would not know the runs that were added since
    for name in LAUNCHERS - set(texts):
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
        (folder / name).chmod(0o755)
    return list(texts)


def xpk_lines(study: Manifest) -> str:
    """Return a line for each run: a name that Kubernetes takes (40 characters), and the run's."""
    lines = []
    for index, run in enumerate(study.runs):
        plain = "".join(c if c.isalnum() else "-" for c in run.name.lower())
        lines.append(f"{f'omfa-{index}-{plain}'[:40].strip('-')} {run.name}")
    return "\n".join(lines)


def xpk_flags(machine: Pod) -> str:
    """Return xpk's flags for the topology, "" where xpk has no type for it."""
    if machine.torus:
        return f"--tpu-type {machine.accelerator_type} --num-slices {machine.slices}"
    device_type, per_host = XPK_GPUS.get(machine.chip_name, ("", 1))
    # hosts come whole
    if not device_type or machine.devices % per_host:
        return ""
    return f"--device-type {device_type} --num-nodes {machine.devices // per_host}"
