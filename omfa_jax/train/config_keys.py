"""Renamed config keys, and the update of configs saved under the old names."""

from collections.abc import Mapping
from typing import Any

# old name -> new name; both are in one group, and no two old names end alike
RENAMED_KEYS: Mapping[str, str] = {
    "train.accumulate": "train.grad_accum_steps",
    "train.nonfinite": "train.on_nonfinite",
    "optimizer.decay": "optimizer.lr_schedule",
    "data.multi_pose": "data.multi_pose_prob",
    "data.augment.flip": "data.augment.flip_prob",
    "checkpoint.keep": "checkpoint.max_to_keep",
}


def update_saved_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a saved config with renamed keys under their new names; values do not change.

    Groups that are missing, as in a config that a test or another tool wrote, stay missing.
    """
    updated = dict(config)
    for old, new in RENAMED_KEYS.items():
        *groups, old_name = old.split(".")
        node = updated
        for group in groups:
            child = node.get(group)
            if not isinstance(child, dict):
                break
            # copied on the way down: the caller's config stays unchanged
            node[group] = node = dict(child)
        else:
            new_name = new.rpartition(".")[2]
            if old_name in node and new_name not in node:
                node[new_name] = node.pop(old_name)
    return updated
