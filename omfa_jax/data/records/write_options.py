"""Options for writing records; without heavy imports, as the command line needs them."""

from dataclasses import dataclass

from omfa_jax.core.errors import OmfaError, make_unknown_name_error

SHARD_RECORDS = 256
RUNNERS = ("local", "beam")


@dataclass(frozen=True)
class WriteOptions:
    """How records are sharded and which runner writes them; the runner does not change the bytes.

    `shard_records`: items per shard, the most that a kill costs each process.
    `runner`: "local" (`processes` of this machine) or "beam".
    `beam_options`: Beam's pipeline options, as on its command line.
    """

    shard_records: int = SHARD_RECORDS
    runner: str = "local"
    beam_options: str = ""
    processes: int = 1

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise make_unknown_name_error("--runner", self.runner, RUNNERS)
        if self.processes < 1:
            raise OmfaError(f"--processes: expected 1 or more, got {self.processes}")
        if self.beam_options and self.runner != "beam":
            raise OmfaError("--beam-options needs --runner beam")
