"""The other side of the bench of the comparison's metrics: Quantus', as its users call them. See scores_worker.lua."""
import gc
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from measure import memory_mark, serve  # noqa: E402
from vision import thesis_network  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

warnings.filterwarnings("ignore")
answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # Quantus prints advice
import quantus  # noqa: E402

model = x = maps = None
plain = dict(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)


def faithfulness():
    """200 sets of a fifth of the values, as many passes for each map."""
    return quantus.FaithfulnessCorrelation(nr_runs=200, subset_size=x.size // 5, perturb_baseline=0.0, **plain)


def infidelity():
    """Patches of an eighth of the side: 64 perturbations, three times, near to 200."""
    return quantus.Infidelity(
        perturb_baseline=0.0, perturb_patch_sizes=[x.shape[-1] // 8], n_perturb_samples=3, **plain
    )


def road():
    return quantus.ROAD(percentages=[25, 50, 75], noise=0.01, **plain)


SETS = {"faithfulness": [faithfulness], "infidelity": [infidelity], "road": [road]}


def judge(name):
    """Seconds; -1 where Quantus stops (its ROAD with an IndexError on images of three channels)."""
    start = time.perf_counter()
    try:
        judge_all(name)
    except IndexError:
        return -1
    return time.perf_counter() - start


def judge_all(name):
    for make in SETS[name]:
        for a in maps:
            make()(
                model=model,
                x_batch=x.copy(),
                y_batch=np.array([0]),
                a_batch=a.copy(),
                channel_first=True,
                softmax=False,
                device="cpu",
            )


def load(name):
    global model, x, maps
    torch.manual_seed(1)
    model = thesis_network(name)
    model.eval()
    n = 299 if name == "inception_v3" else 224
    y, across = np.mgrid[0:n, 0:n].astype(np.float32)
    grey = np.clip(np.sin(y * 0.11) * np.cos(across * 0.07) * 0.3 + 0.5 + np.sin(y * across * 0.37) * 0.1, 0, 1)
    x = np.stack([grey] * 3)[None].astype(np.float32)
    maps = [
        np.stack([np.exp(-((y - 0.08 * k * n) ** 2 + (across - 0.6 * n) ** 2) / (2 * (0.25 * n) ** 2))] * 3)[
            None
        ].astype(np.float32)
        for k in range(1, 11)
    ]
    return memory_mark()


def drop():
    global model, x, maps
    model = x = maps = None
    gc.collect()
    return 0


sys.stdout = answers
serve(hello=lambda: torch.__version__, load=load, judge=judge, drop=drop)
