"""Box blurs by OpenCV and imputed images by pytorch-grad-cam 1.5.7 (noise 0), environment a: what
tests/removal_images.lua
compares with.

    python removal.py OUT        (tests/reference/removal)
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

H, W = 19, 26  # not square, one side odd
BLURS = [(5, 5), (4, 3), (1, 6), (60, 7), (9, 90)]  # even sizes, and larger than the image
KEPT = ["blob", "scattered", "row", "pixel", "none", "stripes"]


def image():
    n = np.arange(3 * H * W, dtype=np.float64)
    return (0.5 + 0.5 * np.sin(n * n * 0.013) * np.cos(n * 0.031)).reshape(3, H, W).astype(np.float32)


def keep(kind):
    y, x = np.mgrid[0:H, 0:W]
    return {
        "blob": np.hypot(y - 7, x - 15) < 6,
        "scattered": (y * 7 + x * 13 + x * y) % 11 == 0,
        "row": y == 18,
        "pixel": (y == 3) & (x == 20),
        "none": y < 0,
        "stripes": (x // 3) % 2 == 0,
    }[kind]


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    x = image()
    np.save(out / "x.npy", x)
    for kx, ky in BLURS:
        blurred = cv2.blur(x.transpose(1, 2, 0), (kx, ky))
        np.save(out / f"blur_{kx}_{ky}.npy", np.ascontiguousarray(blurred.transpose(2, 0, 1)))
    np.save(out / "keep.npy", np.stack([keep(k) for k in KEPT]).astype(np.uint8))
    imputer = NoisyLinearImputer(noise=0.0)
    made = [imputer(torch.from_numpy(x.copy()), torch.from_numpy(keep(k).astype(np.float32))).numpy() for k in KEPT]
    np.save(out / "imputed.npy", np.stack(made).astype(np.float32))


main(Path(sys.argv[1]))
