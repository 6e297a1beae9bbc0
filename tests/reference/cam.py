"""Class activation maps by pytorch-grad-cam 1.5.7 (environment a: Debian's torch and torchvision).

    python cam.py toy OUT                        the small dumps that are committed (tests/reference/cam)

The library is used as it comes but for what its own interface lets one choose: an ablation layer that always fills zero and
weights that do not turn round with the score's sign (our default form of Ablation-CAM), and rectifiers out of place. Signs of
principal components are recorded: they are compared apart from the maps.
"""
import sys
from pathlib import Path

import numpy as np
import pytorch_grad_cam as pgc
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from toy import Toy, toy_images

METHODS = {  # ours -> the library's
    "gradcam": pgc.GradCAM, "hirescam": pgc.HiResCAM, "gradcam_elementwise": pgc.GradCAMElementWise, "gradcam_plus_plus": pgc.GradCAMPlusPlus,
    "xgradcam": pgc.XGradCAM, "layercam": pgc.LayerCAM, "eigencam": pgc.EigenCAM, "eigengradcam": pgc.EigenGradCAM, "scorecam": pgc.ScoreCAM,
    "ablationcam": pgc.AblationCAM, "fullgrad": pgc.FullGrad, "randomcam": pgc.RandomCAM,
}
SMOOTHINGS = {"plain": (False, False), "aug": (True, False), "eigen": (False, True), "both": (True, True)}
SEED = 42

signs = []  # one a principal component: +1 where it correlates positively with the sum of its channels; and the singular values' ratio
projections = {}


def recorded(module):
    """Makes a module's get_2d_projection leave a sign and a ratio behind."""
    original = module.get_2d_projection

    def wrapped(batch):
        out = original(batch)
        for one, channels in zip(out, np.nan_to_num(np.float64(batch))):
            flat = channels.reshape(len(channels), -1).T
            s = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
            a, b = np.float64(one).ravel(), channels.sum(0).ravel()
            a, b = a - a.mean(), b - b.mean()
            scale = np.sqrt((a @ a) * (b @ b))
            signs.append((1.0 if a @ b >= 0 else -1.0, (s[1] if len(s) > 1 else 0) / max(s[0], 1e-300), (a @ b) / scale if scale > 0 else 0))
        return out
    module.get_2d_projection = wrapped


for name in ("base_cam", "eigen_cam", "eigen_grad_cam", "hirescam", "layer_cam", "grad_cam_elementwise", "fullgrad_cam"):
    recorded(sys.modules["pytorch_grad_cam." + name])


class ZeroAblation(AblationLayer):
    """Fills zero whatever the activation's minimum."""

    def __call__(self, x):
        for i in range(self.activations.size(0)):
            self.activations[i, self.indices[i], :] = 0
        return self.activations


class PlainAblation(pgc.AblationCAM):
    """Ablation-CAM with zero fill whose weights keep their direction where the score is negative."""

    def __init__(self, model, target_layers):
        super().__init__(model, target_layers, ablation_layer=ZeroAblation())

    def get_cam_weights(self, x, layer, targets, activations, grads):
        weights = super().get_cam_weights(x, layer, targets, activations, grads)
        with torch.no_grad():
            scores = np.array([float(t(o)) for t, o in zip(targets, self.model(x))])
        return weights * np.sign(scores)[:, None]


def cam(method, model, layers, x, aug, eigen, form, targets=None):
    """Maps (N, H, W), float32; and the signs, ratios and correlations of their principal components in the order in which they were made."""
    cls = PlainAblation if method == "ablationcam" and form == "out" else METHODS[method]
    signs.clear()
    np.random.seed(SEED)
    if form == "out" and targets is None:  # our default: the unaugmented image's class
        with torch.no_grad():
            targets = [ClassifierOutputTarget(int(k)) for k in model(x).argmax(1)]
    c = cls(model, [] if method == "fullgrad" else layers)  # its own with block would swallow an IndexError
    maps = np.float32(c(input_tensor=x, targets=targets, aug_smooth=aug, eigen_smooth=eigen))
    c.activations_and_grads.release()
    return maps, list(signs)


# ---- the committed dumps ---------------------------------------------------------------------------------------------------------

def toy(out):
    """maps.npy: one row a cell, every other pixel of (2, 24, 34); cells.txt: act layers method smoothing form, then the signs of its principal components,
    image by image within each call."""
    rows, lines = [], []
    x = toy_images()
    for act in ("relu", "silu"):
        # several layers in the order of execution: otherwise the library pairs Ablation-CAM's layers wrongly
        for layers in (["features.3"], ["features.6"], ["features.3", "features.6"]):
            for method in METHODS:
                if method == "fullgrad" and layers != ["features.3"]:
                    continue
                for smoothing, (aug, eigen) in SMOOTHINGS.items():
                    if len(layers) == 2 and smoothing in ("aug", "eigen") or (eigen and method in ("eigencam", "eigengradcam")):
                        continue
                    for form in ("asis", "out"):
                        model = Toy(act, form == "asis").eval()
                        own = [model.features[int(name[-1])] for name in layers]
                        if method == "randomcam":  # one image a call: what our compat promises
                            if form == "out":
                                continue
                            parts = [cam(method, model, own, x[i:i + 1], aug, eigen, form) for i in range(2)]
                            maps = np.concatenate([p[0] for p in parts])
                            made = [s for pair in zip(*(p[1] for p in parts)) for s in pair]
                        else:
                            maps, made = cam(method, model, own, x, aug, eigen, form)
                        rows.append(maps[:, ::2, ::2])
                        lines.append(" ".join([act, "+".join(layers), method, smoothing, form] + [f"{s[0]:+.0f}" for s in made]))
    np.save(out / "maps.npy", np.stack(rows))
    (out / "cells.txt").write_text("\n".join(lines) + "\n")
    print(len(rows), "cells", np.stack(rows).nbytes, "bytes")


if __name__ == "__main__":
    {"toy": lambda: toy(Path(sys.argv[2]))}[sys.argv[1]]()
