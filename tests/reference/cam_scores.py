"""CAM metrics, Sobel maps and guided backprop's picture by pytorch-grad-cam 1.5.7 (environment a), on the networks,
images and
Grad-CAM maps that gradcam.py left: what tests/parity_cam_scores.lua compares with.

    python cam_scores.py OUT GRADCAM [network ...]

Maps: Grad-CAM of the network's CAM layer (plateaus at 0), and one by formula without equal values. The imputer's noise
is 0 and
it works in float32, as it always does; truth is the network in float64 on those images, beside it the reference as it
comes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from gradcam import NETWORKS
from pytorch_grad_cam import GuidedBackpropReLUModel
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange, DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.sobel_cam import sobel_cam
from pytorch_grad_cam.utils.image import deprocess_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

PERCENTILES = [20, 25, 40, 50, 60, 75, 80, 90]
SOBEL = [25, 50, 75, 90]


class Memo:
    """A network that evaluates each image once."""

    def __init__(self, model, double):
        self.model, self.double, self.seen = model, double, {}

    def __call__(self, x):
        key = x.numpy().tobytes()
        if key not in self.seen:
            with torch.no_grad():
                self.seen[key] = self.model(x.double() if self.double else x)
        return self.seen[key]


def formula_map(h, w):
    """Smooth, no two values equal."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    m = 0.5 + 0.25 * np.sin(0.05 * x + 1) * np.cos(0.07 * y) + 0.2 * np.sin(0.013 * x * 1.7 + 0.021 * y)
    ranks = np.argsort(np.argsort(m, axis=None), axis=None)
    return (ranks.reshape(h, w) / (h * w - 1)).astype(np.float32)


class Imputer(NoisyLinearImputer):
    """The reference's, solving each system once."""
    seen = {}

    def __call__(self, image, mask):
        key = image.numpy().tobytes() + mask.numpy().tobytes()
        if key not in self.seen:
            self.seen[key] = super().__call__(image, mask)
        return self.seen[key]


def road(remover, p):
    return PerturbationConfidenceMetric(remover(p, Imputer(noise=0.0)))


def scores(model, x, cam, k):
    """All metrics of one image (1, 3, H, W) and its map (1, H, W)."""
    out = {}
    for kind, target in (("logit", ClassifierOutputTarget(k)), ("softmax", ClassifierOutputSoftmaxTarget(k))):
        def run(metric):
            return float(metric(x, cam, [target], model)[0])
        put = {"confidence_change": run(CamMultImageConfidenceChange()), "confidence_drop": run(DropInConfidence()),
               "confidence_increase": run(IncreaseInConfidence())}
        most = {p: run(road(RemoveMostRelevantFirst, p)) for p in PERCENTILES}
        least = {p: run(road(RemoveLeastRelevantFirst, p)) for p in PERCENTILES}
        for p in PERCENTILES:
            put[f"most {p}"], put[f"least {p}"] = most[p], least[p]
        for ps in ([25, 50, 75], [20, 40, 60, 80]):
            put["combined " + ",".join(map(str, ps))] = (
                float(np.mean([least[p] for p in ps]) - np.mean([most[p] for p in ps])) / 2
            )
        out.update({f"{kind} {name}": value for name, value in put.items()})
    return out


def sobel_scores(model, x, edges, k):
    target = [ClassifierOutputSoftmaxTarget(k)]
    return {
        f"sobel below {p}": float(
            CamMultImageConfidenceChange()(x, np.float32(edges < np.percentile(edges, p))[None], target, model)[0]
        )
        for p in SOBEL
    }


def build(name, weights):
    model = getattr(torchvision.models, name)(
        weights=None, num_classes=3, **({"init_weights": False} if name == "inception_v3" else {})
    )
    model.load_state_dict(weights)
    return model.eval()


def dump(out, gradcam, name):
    out = out / name
    out.mkdir(parents=True, exist_ok=True)
    weights = torch.load(gradcam / name / "weights.pt")
    networks = {"reference": Memo(build(name, weights), False), "truth": Memo(build(name, weights).double(), True)}
    x = torch.from_numpy(np.load(gradcam / name / "square.x.npy"))
    cams = np.load(gradcam / name / f"square.{NETWORKS[name][0]}.asis.32.npy").astype(np.float32)
    logits = np.load(gradcam / name / "square.logits.npy")
    table, edges = [], []
    for i in range(len(x)):
        image, k = x[i:i + 1], int(logits[i].argmax())
        Imputer.seen.clear()
        for model in networks.values():
            model.seen.clear()
        pixels = np.ascontiguousarray(np.uint8(np.round(image[0].numpy().transpose(1, 2, 0) * 255)))
        edges.append(sobel_cam(pixels))
        for which, cam in (("Grad-CAM", cams[i:i + 1]), ("formula", formula_map(*cams.shape[1:])[None])):
            table.append(
                {
                    "image": i,
                    "class": k,
                    "map": which,
                    **{form: scores(model, image, cam, k) for form, model in networks.items()},
                }
            )
        table.append(
            {
                "image": i,
                "class": k,
                "map": "Sobel",
                **{form: sobel_scores(model, image, edges[i], k) for form, model in networks.items()},
            }
        )
    np.save(out / "formula.npy", formula_map(*cams.shape[1:]))
    np.save(out / "sobel.npy", np.stack(edges))
    gradient = GuidedBackpropReLUModel(model=build(name, weights), device="cpu")(
        x[:1].clone(), target_category=int(logits[0].argmax())
    )
    gradient = np.ascontiguousarray(gradient.sum(2)).astype(np.float32)
    np.save(out / "guided.npy", gradient)
    np.save(out / "guided_picture.npy", deprocess_image(gradient.copy()))
    np.save(out / "product_picture.npy", deprocess_image(cams[0] * gradient))
    (out / "scores.json").write_text(json.dumps(table, sort_keys=True) + "\n")
    print(name, "done", flush=True)


if __name__ == "__main__":
    for network in sys.argv[3:] or NETWORKS:
        dump(Path(sys.argv[1]), Path(sys.argv[2]), network)
