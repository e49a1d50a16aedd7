"""Lets torchvision be imported beside a torch build that it was not made for (its C++ part is not
needed here: only networks and transforms are)."""

import torch

_KEPT = []


def import_torchvision() -> None:
    """Import torchvision, defining the operators that it looks for if its own are not there."""
    try:
        import torchvision
    except RuntimeError:
        arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + arguments)
        _KEPT.append(library)
        import torchvision  # noqa: F401
