"""CAM metrics by pytorch-grad-cam 1.5.7, without the imputer's noise (environment a): what tests/score_metrics.lua
compares with.

    python cam_metrics.py OUT.json     (tests/reference/cam_metrics.json)

The network and the images are those of gradcam.py --tiny; maps by formula, one of them with plateaus at both ends.
"""

import json
import sys

import numpy as np
import torch
from gradcam import Tiny
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange, DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

H, W = 21, 32
CLASSES = [1, 2]
PERCENTILES = [20, 25, 40, 50, 60, 75, 80, 90]


def images():
    n = np.arange(2 * 3 * H * W, dtype=np.float64)
    return (
        torch.from_numpy(0.5 + 0.5 * np.sin(n * 0.013) * np.cos(n * 0.0007)).reshape(2, 3, H, W).float()
    )  # the imputer knows float32 alone


def maps():
    n = np.arange(2 * H * W, dtype=np.float64)
    smooth = 0.5 + 0.5 * np.sin(n * 0.0173 + 1) * np.cos(n * 0.31)
    m = smooth.reshape(2, H, W).astype(np.float32)
    m[1] = np.clip(2 * m[1] - 0.5, 0, 1)  # about a third at 0, some at 1
    return m


def road(remover, p):
    return PerturbationConfidenceMetric(remover(p, NoisyLinearImputer(noise=0.0)))


def main(path):
    model, x, cams, out = Tiny().eval(), images(), maps(), {}
    for name, kind in (("logit", ClassifierOutputTarget), ("softmax", ClassifierOutputSoftmaxTarget)):
        targets = [kind(c) for c in CLASSES]
        values = {"confidence_change": CamMultImageConfidenceChange()(x, cams, targets, model).tolist(),
                  "confidence_drop": DropInConfidence()(x, cams, targets, model).tolist(),
                  "confidence_increase": IncreaseInConfidence()(x, cams, targets, model).tolist()}
        most = {p: road(RemoveMostRelevantFirst, p)(x, cams, targets, model) for p in PERCENTILES}
        least = {p: road(RemoveLeastRelevantFirst, p)(x, cams, targets, model) for p in PERCENTILES}
        for p in PERCENTILES:
            values[f"most {p}"], values[f"least {p}"] = most[p].tolist(), least[p].tolist()
        for ps in ([25, 50, 75], [20, 40, 60, 80]):
            both = [np.mean(np.float32([part[p] for p in ps]), axis=0) for part in (least, most)]
            values["combined " + ",".join(map(str, ps))] = ((both[0] - both[1]) / 2).tolist()
        out[name] = values
    with open(path, "w") as f:
        json.dump(out, f, sort_keys=True, indent=0)
        f.write("\n")


main(sys.argv[1])
