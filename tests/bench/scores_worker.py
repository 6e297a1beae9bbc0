"""The other side of the bench of CAM metrics: pytorch-grad-cam's, as its users call them. See scores_worker.lua."""
import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from measure import memory_mark, serve  # noqa: E402
from vision import thesis_network  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from pytorch_grad_cam.metrics.cam_mult_image import (
    CamMultImageConfidenceChange,
    DropInConfidence,
    IncreaseInConfidence,
)  # noqa: E402
from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirst  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget  # noqa: E402

model = x = cam = None


def confidence():
    for metric in (CamMultImageConfidenceChange(), DropInConfidence(), IncreaseInConfidence()):
        metric(x, cam, [ClassifierOutputSoftmaxTarget(0)], model)


def morf():
    for p in (25, 50, 75):
        ROADMostRelevantFirst(percentile=p)(x, cam, [ClassifierOutputTarget(0)], model)


def combined():
    ROADCombined(percentiles=[20, 40, 60, 80])(x, cam, [ClassifierOutputTarget(0)], model)


def deletion():
    """pytorch-grad-cam has none: the same hundred and one passes one by one, as users write it."""
    order = np.argsort(-cam[0], axis=None, kind="stable")
    with torch.no_grad():
        for k in range(101):
            image = x.clone()
            image.view(3, -1)[:, torch.from_numpy(order[:round(k * order.size / 100)].copy())] = 0
            model(image)


SETS = {"confidence": confidence, "morf": morf, "combined": combined, "deletion": deletion}


def judge(name):
    start = time.perf_counter()
    SETS[name]()
    return time.perf_counter() - start


def load(name):
    global model, x, cam
    torch.manual_seed(1)
    model = thesis_network(name)
    model.eval()
    n = 299 if name == "inception_v3" else 224
    y, across = np.mgrid[0:n, 0:n].astype(np.float32)
    grey = np.clip(np.sin(y * 0.11) * np.cos(across * 0.07) * 0.3 + 0.5 + np.sin(y * across * 0.37) * 0.1, 0, 1)
    x = torch.from_numpy(np.stack([grey] * 3)[None].astype(np.float32))
    cam = np.exp(-((y - 0.4 * n) ** 2 + (across - 0.6 * n) ** 2) / (2 * (0.25 * n) ** 2))[None].astype(np.float32)
    judge("confidence")
    return memory_mark()


def drop():
    global model, x, cam
    model = x = cam = None
    gc.collect()
    return 0


serve(hello=lambda: torch.__version__, load=load, judge=judge, drop=drop)
