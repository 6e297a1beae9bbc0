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
torch.set_num_threads(1)
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
    """Processor seconds for ten maps of one image, given as one batch: the fastest way that Quantus has."""
    start = time.process_time()
    gray = name == "road"
    n = len(maps)
    for make in SETS[name]:
        make()(
            model=Gray(model) if gray else model,
            x_batch=np.repeat(x[:, :1] if gray else x, n, 0),
            y_batch=np.zeros(n, dtype=int),
            a_batch=(maps[:, :1] if gray else maps).copy(),
            channel_first=True,
            softmax=False,
            device="cpu",
        )
    return time.process_time() - start


class Gray(torch.nn.Module):
    """The network behind an input of one channel: Quantus' ROAD stops with an IndexError on three."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, one):
        return self.network(one.expand(-1, 3, -1, -1))


def load(name, px):
    global model, x, maps
    torch.manual_seed(1)
    model = thesis_network(name)
    model.eval()
    n = int(px)
    y, across = np.mgrid[0:n, 0:n].astype(np.float32)
    grey = np.clip(np.sin(y * 0.11) * np.cos(across * 0.07) * 0.3 + 0.5 + np.sin(y * across * 0.37) * 0.1, 0, 1)
    x = np.stack([grey] * 3)[None].astype(np.float32)
    maps = np.stack(
        [
            np.stack([np.exp(-((y - 0.08 * k * n) ** 2 + (across - 0.6 * n) ** 2) / (2 * (0.25 * n) ** 2))] * 3)
            for k in range(1, 11)
        ]
    ).astype(np.float32)
    return memory_mark()


def drop():
    global model, x, maps
    model = x = maps = None
    gc.collect()
    return 0


sys.stdout = answers
serve(hello=lambda: torch.__version__, load=load, judge_cpu=judge, drop=drop)
