"""The imports of a thesis script, as far as they are installed, to the first operator."""
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import torch  # noqa: E402
from vision import torchvision  # noqa: E402, F401

have = []
for name in (
    "torchvision.transforms",
    "torchvision.datasets",
    "numpy",
    "PIL.Image",
    "matplotlib.pyplot",
    "cv2",
    "sklearn.metrics",
    "skimage.segmentation",
    "pytorch_grad_cam",
    "lime.lime_image",
    "shap",
):
    try:
        importlib.import_module(name)
        have.append(name.split(".")[0])
    except Exception:
        pass
torch.ones(2) + 1
print(" ".join(dict.fromkeys(["torch", "torchvision"] + have)))
