"""The other side of ./bootstrap bench explain: pytorch-grad-cam, as its users call it: on the batch, the predicted
class. See explain_worker.lua."""

import contextlib
import gc
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from measure import memory_mark, serve  # noqa: E402
from vision import thesis_network  # noqa: E402
import pytorch_grad_cam as pgc  # noqa: E402
import torch  # noqa: E402
from pytorch_grad_cam.metrics.road import ROADCombined  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

METHODS = {
    "gradcam": pgc.GradCAM,
    "hirescam": pgc.HiResCAM,
    "gradcam_elementwise": pgc.GradCAMElementWise,
    "gradcam_plus_plus": pgc.GradCAMPlusPlus,
    "xgradcam": pgc.XGradCAM,
    "layercam": pgc.LayerCAM,
    "eigencam": pgc.EigenCAM,
    "eigengradcam": pgc.EigenGradCAM,
    "scorecam": pgc.ScoreCAM,
    "ablationcam": pgc.AblationCAM,
    "fullgrad": pgc.FullGrad,
    "randomcam": pgc.RandomCAM,
}
PAGE = [
    "gradcam",
    "gradcam_plus_plus",
    "eigengradcam",
    "hirescam",
    "xgradcam",
    "fullgrad",
    "eigencam",
    "layercam",
]  # and Ablation-CAM
model = x = layer = maps = None


def timed(f):
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        start = time.perf_counter()
        f()
        return time.perf_counter() - start


def explain(name, n, aug, eigen):
    global maps
    if name == "guided_backprop":
        for i in range(n):
            pgc.GuidedBackpropReLUModel(model=model)(x[i:i + 1].clone())
        return
    with METHODS[name](model=model, target_layers=[] if name == "fullgrad" else [layer]) as cam:
        maps = cam(input_tensor=x[:n], targets=None, aug_smooth=aug, eigen_smooth=eigen)


def load(name):
    global model, x, layer
    torch.manual_seed(1)
    model = thesis_network(name).eval()
    x = torch.rand(8, 3, 299 if name == "inception_v3" else 224, 299 if name == "inception_v3" else 224)
    layer = model.layer4[-1] if name == "resnet50" else model.features[-1]
    with torch.no_grad():
        model(x)
    return memory_mark()


def method(name, n, aug, eigen, precision="float32"):
    return timed(lambda: explain(name, int(n), aug == "1", eigen == "1"))


def page(n, aug, eigen):
    """All of the page but Ablation-CAM, which takes minutes to hours: the bench adds it from one image."""
    return timed(lambda: [explain(name, int(n), aug == "1", eigen == "1") for name in PAGE])


def road(n):
    """ROAD combined at three percentiles of n images' maps, for nine methods."""
    metric = ROADCombined(percentiles=[25, 50, 75])
    targets = [ClassifierOutputTarget(0)] * int(n)
    return timed(lambda: [metric(x[:int(n)], maps[:int(n)], targets, model) for _ in range(9)])


def drop():
    global model, x, layer, maps
    model = x = layer = maps = None
    gc.collect()
    return 0


serve(hello=lambda: torch.__version__, load=load, method=method, page=page, road=road, drop=drop)
