"""Lets torchvision be imported beside a torch build that it was not made for.

Its C++ operators are not needed here: only networks and transforms are. `make setup` puts such a
torchvision in a folder of its own, so that it is in nobody else's way.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ASIDE = Path(sys.prefix) / "aside"
_KEPT = []


def import_torchvision() -> None:
    """Import torchvision, defining the operators that it looks for if its own are not there.

    The tests of the module that calls this are skipped if there is no torchvision at all.
    """
    if importlib.util.find_spec("torchvision") is None:
        if not (ASIDE / "torchvision").is_dir():
            pytest.skip("needs the eval extra: torchvision is not there", allow_module_level=True)
        sys.path.append(str(ASIDE))
    try:
        import torchvision
    except RuntimeError:
        arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + arguments)
        _KEPT.append(library)
        import torchvision
    assert torchvision
