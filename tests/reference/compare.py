"""compare.py FOLDER: the metrics of run:compare by Quantus 0.6.0 and captum, on what compare_make.lua left in FOLDER.

Writes peers.json: { "rows": [{ image, method, metric, value, by }], "apart": [...] }. Where the references agree with
the
right definition, `rows` holds their numbers on the same sets, noise and maps; where they do not, `apart` holds what
they
say of a case whose right answer is known.
"""

import json
import os
import sys
import warnings

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore")
import quantus  # noqa: E402
from captum.metrics import infidelity, sensitivity_max  # noqa: E402

torch.set_num_threads(1)
told, sys.stdout = sys.stdout, open(os.devnull, "w")  # Quantus prints advice
folder = sys.argv[1]
made = json.load(open(folder + "/make.json"))


def npy(name):
    return np.load(f"{folder}/{name}.npy")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 3)
        self.load_state_dict({name: torch.tensor(npy(name)) for name in self.state_dict()})

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


model = Tiny().eval()
images = npy("x")
rows, apart = [], []


def judged(metric, x, a, mask=None):
    """One value of a Quantus metric for one image (3, H, W) and map (H, W)."""
    s = None if mask is None else mask[None, None].astype(bool)
    if x.shape[1:] != a.shape:  # a metric of the map alone
        x = np.zeros((3,) + a.shape, dtype=np.float32)
    with np.errstate(all="ignore"):
        value = metric(
            model=model,
            x_batch=x[None].copy(),
            y_batch=np.array([0]),
            a_batch=a[None, None].copy(),
            s_batch=s,
            channel_first=True,
            softmax=False,
            device="cpu",
        )
    return float(np.asarray(value, dtype=float).reshape(-1)[0])


plain = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)


def pixels_of(regions):
    """Flat indices, in all channels, of regions (from 1) of the 8 x 8 grid on 32 x 32 pixels."""
    flat = []
    for r in regions:
        y, x = divmod(r - 1, 8)
        flat += [(4 * y + i) * 32 + 4 * x + j for i in range(4) for j in range(4)]
    return np.concatenate([np.array(flat) + c * 1024 for c in range(3)])


def correlation(x, a, sets):
    """Faithfulness correlation on given sets: Quantus draws them with numpy.random.choice."""
    queue = [pixels_of(s) for s in sets]
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=len(sets), subset_size=len(queue[0]), perturb_baseline=0.0, **plain
    )
    choice, np.random.choice = np.random.choice, lambda *_, **__: queue.pop(0)
    try:
        return judged(metric, x, a)
    finally:
        np.random.choice = choice


def infidelity_of(x, raw, sets):
    """Ours from captum's error with its optimal scale: mean (b u - d)^2 over mean d^2; b cut at 0."""
    masks = np.zeros((len(sets), 3 * 1024), dtype=np.float32)
    for k, s in enumerate(sets):
        masks[k, pixels_of(s)] = 1
    change = torch.tensor(masks.reshape(-1, 3, 32, 32) * x[None])

    def perturb(inputs):
        return change, inputs - change

    inputs = torch.tensor(x[None])
    attr = torch.tensor(raw[None, None] / 3).float().expand(1, 3, 32, 32)
    with torch.no_grad():
        error = infidelity(lambda v: model(v)[:, 0], perturb, inputs, attr, n_perturb_samples=len(sets), normalize=True)
        d = model(inputs)[:, 0] - model(inputs - change)[:, 0]
        u = (attr * change).sum((1, 2, 3))
    return float(error[0] / (d**2).mean()), float((u * d).sum())


def shown(raw):
    a = np.maximum(raw, 0)
    return (a - a.min()) / (a.max() - a.min())


def first(v):
    """captum hands over tuples of inputs."""
    return v[0] if isinstance(v, tuple) else v


def like(v, e):
    """What a captum explainer gives back: a tuple for a tuple of inputs."""
    return (e,) if isinstance(v, tuple) else e


def saliency(x):
    with torch.enable_grad():  # captum asks within no_grad
        x = first(x).detach().clone().requires_grad_(True)
        (g,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    raw = g.abs().sum(1)
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    return ((raw - low) / (high - low)).unsqueeze(1)


def put(image, method, metric, value, by):
    rows.append(dict(image=image, method=method, metric=metric, value=value, by=by))


def cells_of(a):
    return a.reshape(16, 2, 16, 2).mean((1, 3))


for i, image in enumerate(made["ids"]):
    x, sets = images[i], made["sets"][image]
    for entry in made["maps"]:
        method, a = entry["method"], np.load(f"{folder}/maps/{entry['set']}/{image}.npy").astype(np.float64)
        put(image, method, "faithfulness_correlation", correlation(x, a, sets), "Quantus, the same sets")
        if len(np.unique(a)) == a.size:  # Quantus takes pixels in groups of the sorted map: ties would mix them
            estimate = quantus.FaithfulnessEstimate(features_in_step=3, perturb_baseline=0.0, **plain)
            estimate.custom_preprocess = (
                lambda **_: None
            )  # a step is a pixel's three channels; it asks for a divisor of H x W
            put(image, method, "faithfulness_estimate", judged(estimate, x, a), "Quantus, single pixels")
        if method == "smoothgrad":
            raw = np.load(f"{folder}/maps/{entry['set']}/{image}.raw.npy")
            value, scale = infidelity_of(x, raw, sets)
            if scale > 0:
                put(image, method, "infidelity", value, "captum with normalize, over the mean squared drop")
        if method == "saliency":
            noisy = torch.tensor(npy(image + ".noisy"))
            value = sensitivity_max(
                lambda v: like(v, saliency(v)),
                torch.tensor(x[None]),
                perturb_func=lambda v, r: noisy[: len(first(v))],
                n_perturb_samples=len(noisy),
                max_examples_per_batch=len(noisy),
            )
            put(image, method, "max_sensitivity", float(value[0]), "captum, the same noise")
        cells = cells_of(a)
        put(image, method, "gini", judged(quantus.Sparseness(**plain), x, cells), "Quantus on the 16 x 16 cells")
        put(
            image,
            method,
            "entropy",
            judged(quantus.Complexity(**plain), x, cells) / np.log(256),
            "Quantus on the cells, / ln 256",
        )
        try:
            mask = npy(image + ".mask")
        except FileNotFoundError:
            continue
        if len(np.unique(a)) > a.size // 2:
            rank = judged(quantus.RelevanceRankAccuracy(**plain), x, a, mask)
            put(image, method, "relevance_rank_accuracy", rank, "Quantus")
        put(
            image,
            method,
            "energy_inside",
            judged(quantus.RelevanceMassAccuracy(**plain), x, a, mask),
            "Quantus, mass accuracy",
        )
        if (a == a.max()).sum() == 1:
            put(image, method, "pointing_game", judged(quantus.PointingGame(**plain), x, a, mask), "Quantus")

# ---- where they do not agree with the right definition ----

x, flat, nothing = images[1], np.full((32, 32), 0.5), np.zeros((32, 32))
flat[31, 31] = 0.4  # it refuses one that is flat to the last pixel, alone
mask = npy(made["ids"][1] + ".mask")
apart.append(
    dict(
        case="Quantus, pointing game, a map that is flat but for a corner",
        says=judged(quantus.PointingGame(**plain), x, flat, mask),
        right="the plateau's centre is outside: 0",
    )
)
apart.append(
    dict(
        case="Quantus, pointing game, an empty mask",
        says=judged(quantus.PointingGame(**plain), x, np.random.default_rng(0).random((32, 32)), nothing),
        right="undefined",
    )
)
blob = np.exp(-((np.arange(32) - 12)[:, None] ** 2 + (np.arange(32) - 12)[None] ** 2) / 50.0)
big = np.kron(blob, np.ones((4, 4)))
apart.append(
    dict(
        case="Quantus, complexity of one blob at 32 and at 128 px",
        says=[judged(quantus.Complexity(**plain), x, blob), judged(quantus.Complexity(**plain), x, big)],
        right="the same",
    )
)
apart.append(dict(case="Quantus, effective complexity of that blob, of 1024 pixels",
                  says=judged(quantus.EffectiveComplexity(**plain), x, blob + 1e-4), right="a share"))
g = torch.tensor(x[None]).requires_grad_(True)
(grad,) = torch.autograd.grad(model(g)[:, 0].sum(), g)
small = 1e-3 * torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(1))
errors = [float(infidelity(lambda v: model(v)[:, 0], lambda v: (small, v - small), torch.tensor(x[None]), scale * grad,
                           n_perturb_samples=50)[0]) for scale in (1, 100)]
apart.append(
    dict(case="captum, infidelity of the gradient and of 100 x the gradient", says=errors, right="both near 0")
)
zero = sensitivity_max(
    lambda v: like(v, torch.zeros(len(first(v)), 1, 32, 32)), torch.tensor(x[None]), n_perturb_samples=2
)
apart.append(dict(case="captum, sensitivity of a map of zeros", says=float(zero[0]), right="undefined"))
signed = np.where(mask > 0, 1.0, -0.9 * mask.sum() / (mask.size - mask.sum()))
apart.append(
    dict(
        case="Quantus, mass accuracy of a signed map",
        says=judged(quantus.RelevanceMassAccuracy(**plain), x, signed, mask),
        right="in [0, 1]",
    )
)

json.dump(dict(rows=rows, apart=apart), open(folder + "/peers.json", "w"), indent=1)
sys.stdout = told
print(f"{len(rows)} values by Quantus {quantus.__version__} and captum")
