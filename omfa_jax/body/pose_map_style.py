"""The style of pose map images, which `omfa data poses` notes in pose_maps.json beside them."""

import os

from omfa_jax.body.pose_maps import SETTINGS_FILE
from omfa_jax.core.errors import OmfaError
from omfa_jax.core.json_text import parse_json
from omfa_jax.core.paths import to_path


def read_map_style(pose_map: str | os.PathLike) -> str | None:
    """Return the style of a pose map, None if no pose_maps.json lies beside it.

    Raises OmfaError for a pose_maps.json that says no style.
    """
    note = to_path(pose_map).parent / SETTINGS_FILE
    if not note.is_file():
        return None
    try:
        style = parse_json(note.read_text())["style"]
    except (OSError, ValueError, KeyError, TypeError):
        style = None
    if not isinstance(style, str):
        raise OmfaError(
            f'{note}: expected JSON with the maps\' "style"; render them again with'
            " `omfa data poses`, or delete the file if the model was trained on such maps"
        )
    return style


def require_map_style(pose_map: str | os.PathLike, style: str, flag: str = "--pose") -> None:
    """Raise an OmfaError if pose_maps.json beside a pose map says another style than `style`."""
    found = read_map_style(pose_map)
    if found is not None and found != style:
        raise OmfaError(
            f"{flag} {os.fspath(pose_map)}: the model was trained on pose maps of style {style!r},"
            f" and this one is {found!r} ({SETTINGS_FILE} beside it): give the body (.npz), or a"
            f" map of `omfa data poses --style {style}`"
        )
