"""Config files of a study's runs: the resolved base config with one size, length and rate each."""

import ast
import pprint
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from omfa_jax.core.atomic_files import atomic_write
from omfa_jax.core.errors import OmfaError, make_unknown_name_error
from omfa_jax.core.paths import AnyPath

if TYPE_CHECKING:
    from omfa_jax.cli.config_lib import Config
    from omfa_jax.studies.study_manifest import StudyRun

# warm-up takes at most 1 / WARMUP_SHARE of a run's steps
WARMUP_SHARE = 10

CONFIG = '''\
"""Run {name} of a scaling study: {params:,} parameters, {samples:,} samples, {flops:.3e} FLOPs.

    omfa scaling run {study} --only {name}
"""

from ml_collections import ConfigDict

CONFIG = {config}


def get_config() -> ConfigDict:
    """Return the complete configuration, independent of later changes to the base config."""
    return ConfigDict(CONFIG).lock()
'''


def replace_size(config: "Config", name: str) -> Any:
    """Return a copy of the config with another UNet preset."""
    # presets import jax, which the plan may still configure
    from omfa_jax.models.presets import UNETS

    if name not in UNETS:
        raise make_unknown_name_error("UNet preset (--sizes)", name, UNETS)
    sized = config.copy_and_resolve_references()
    with sized.unlocked():
        sized.model.unet = name
    return sized


def write_configs(out: AnyPath, config: "Config", runs: "tuple[StudyRun, ...]") -> None:
    """Write the config file of every run; OmfaError if one exists with different values."""
    texts = {out / run.config: format_config(out, config, run) for run in runs}
    # all files are compared before the first is written, so that a refused plan changes nothing
    existing = {path: path.read_text() for path in texts if path.exists()}
    for path, text in existing.items():
        # not only the text: a file of an older version has other words and key names
        if text != texts[path] and read_values(text) != read_values(texts[path]):
            raise OmfaError(
                f"{path} exists with different content, because the base config has changed; give"
                " another folder to --out, or remove that run from the plan"
            )
    for path in texts.keys() - existing.keys():
        with atomic_write(path) as temporary:
            temporary.write_text(texts[path])


def read_values(text: str) -> dict[str, Any] | str:
    """Return the values of a run's config file under today's key names, or the text as it is.

    The file is not run. One that a user has changed may hold more than literals.
    """
    # imports jax, which the plan may still configure
    from omfa_jax.cli.config_table import update_old_config

    try:
        values = next(
            ast.literal_eval(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONFIG"
        )
    except (StopIteration, SyntaxError, ValueError):
        return text
    config = ConfigDict(values)
    update_old_config(config)
    return config.to_dict()


def format_config(out: AnyPath, config: "Config", run: "StudyRun") -> str:
    """Return a run's config file: the resolved base config with its size, length and rate.

    Warm-up takes at most a tenth of the run; the last step is saved, logged and evaluated.
    """
    own = replace_size(config, run.size)
    with own.unlocked():
        own.train.steps = run.steps
        own.optimizer.learning_rate = run.learning_rate
        own.optimizer.warmup_steps = min(own.optimizer.warmup_steps, run.steps // WARMUP_SHARE)
    text = pprint.pformat(own.to_dict(), sort_dicts=False, width=96)
    return CONFIG.format(
        name=run.name,
        params=run.params,
        samples=run.samples,
        flops=run.flops,
        study=out.name,
        config=text,
    )
