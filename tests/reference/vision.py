"""Imports torchvision where its compiled operators are absent (a wheel made for another torch). The networks need none
of them, but torchvision describes some of them while it is imported, so they are declared first."""
import torch

try:
    torch.ops.torchvision.nms
except AttributeError:
    try:
        import torchvision
    except RuntimeError:
        import sys
        for name in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[name]
        _lib = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _lib.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision  # noqa: E402, F401
