"""The settings of whoever writes records; light, for the command line's sake."""

from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError, unknown

SHARD_RECORDS = 256
RUNNERS = ("local", "beam")


@dataclass(frozen=True)
class Writing:
    """How records are cut and who writes them; the records do not depend on the latter.

    `shard_records`: items per shard, what a kill costs each process at most.
    `runner`: "local" (`processes` of this machine) or "beam".
    `beam_options`: Beam's pipeline options as on a command line.
    """

    shard_records: int = SHARD_RECORDS
    runner: str = "local"
    beam_options: str = ""
    processes: int = 1

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise unknown("--runner", self.runner, RUNNERS)
        if self.processes < 1:
            raise OmfaError(f"--processes: expected 1 or more, got {self.processes}")
        if self.beam_options and self.runner != "beam":
            raise OmfaError("--beam-options is for --runner beam")
