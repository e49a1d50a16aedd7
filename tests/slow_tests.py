"""Which tests `make test-fast` leaves out: those that start processes or compile networks."""

import re
from functools import cache
from pathlib import Path
from types import FunctionType

# helpers whose users train, convert or count whole networks, or start processes
HELPERS = {
    "compiler_flops",
    "coordinates",
    "matrix_training",
    "processes",
    "slurm",
    "tiny_model",
    "tiny_training",
    "torch_models",
}
# files that do so by themselves; the first are the longest of the suite
FILES = (
    "test_plan",
    "test_reference_training",
    "test_training",
    "test_evaluation",
    "test_predictions",
    "test_processes",
    "test_slurm",
    "test_demo",
    "test_flops",
    "test_mup",
    "test_train_files",
    "test_atomic_dirs",
    "test_gpu_memory",
    "test_encoder",
    "test_presets",
    "test_denoising_loop",
    "test_export",
    "test_extending",
    "test_scaling_study",
    "test_task_changes",
    "test_body_fit",
    "test_real_photos",
    "test_kills",
    "test_restart",
    "test_study_runner",
    "test_configs",
    "test_datasets",
    "test_beam",
    "test_cli_errors",
    "test_eval_metrics",
    "test_eval_networks",
    "test_launch",
    "test_mounts",
    "test_serve",
    "test_serve_frame",
    "test_published_sources",
    "test_report_browser",
)
# long files whose tests are quick, or start no process: `make test-fast` has them
LONG = (
    "test_readme",
    "test_app_page",
    "test_photo_to_body",
    "test_studies_in_storage",
    "test_raw_data_in_storage",
    "test_evaluation_on_storage",
    "test_sampling_on_storage",
    "test_training_on_storage",
    "test_processes_on_storage",
    "test_object_storage",
    "test_storage_faults",
    "test_plan_parts",
    "test_plan_figures",
    "test_check",
)
# what a test of any other file calls when it starts a process
STARTERS = {"subprocess", "WarmProcess"}
_IMPORT = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


def place_of(path: Path) -> int:
    """Return a file's place in the order of running: the longest first, so that none comes last."""
    order = (*FILES[:11], *LONG, *FILES[11:])
    return order.index(path.stem) if path.stem in order else len(order)


def is_slow(path: Path, function: FunctionType) -> bool:
    names = {*function.__code__.co_names}
    return path.stem in FILES or bool(HELPERS & imports(path)) or bool(STARTERS & names)


@cache
def imports(path: Path) -> frozenset[str]:
    return frozenset(_IMPORT.findall(path.read_text()))
