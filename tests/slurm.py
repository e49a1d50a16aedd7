"""A real Slurm of one node on this machine, with GPUs that are only counted."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue")
CONF = """
ClusterName=omfa
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# a job that is queued again starts at the next round, by default up to a minute later
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName={host} CPUs=64 Gres=gpu:4 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why Slurm cannot be started here, "" if it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm"
    return "" if os.geteuid() == 0 else "its daemons need root"


class Slurm:
    """The daemons, started in `folder`; `stop` ends them."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        # devices like /dev/null: of plain files Slurm tells tasks nothing
        for index in range(4):
            os.mknod(folder / f"gpu{index}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        ports = {"ctld_port": _free_port(), "d_port": _free_port()}
        (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, **ports))
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        files = {"socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed", "key-file": "munge.key"}
        self.call("munged", "--force", *(f"--{flag}={folder / f}" for flag, f in files.items()))
        self.call("slurmctld", "-c")
        self.call("slurmd", "-c")

    def call(self, *command: object, **environment: str) -> str:
        """Run a command of Slurm's and return what it printed."""
        done = subprocess.run(
            list(map(str, command)),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """Return a field of a job as scontrol names it."""
        shown = self.call("scontrol", "show", "job", job)
        return next(part.split("=", 1)[1] for part in shown.split() if part.startswith(f"{name}="))

    def stop(self) -> None:
        """End the daemons."""
        for name in ("slurmd", "slurmctld", "munged"):
            pid_file = self.folder / f"{name}.pid"
            if pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
