"""Whole networks as files of weights, both ways, for tests/parity_checkpoints.lua:

    networks_files.py write DIR NETWORK ...   torchvision's networks, seeded: zip and legacy, a picture and its logits
    networks_files.py more DIR NETWORK ...    the same weights again by this torch: a zip of its own, and .safetensors
    networks_files.py open DIR                what medxai wrote into DIR/ours: every tensor must be the one of DIR
"""
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from vision import torchvision  # noqa: E402

what, folder, networks = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
folder.mkdir(parents=True, exist_ok=True)


def picture(size):
    """Brighter to one corner, so that upside down it is another."""
    ramp = torch.linspace(0, 1, size)
    return torch.rand(1, 3, size, size) * 0.3 + 0.7 * ramp.view(1, 1, size, 1) * ramp.view(1, 1, 1, size)


def write(name):
    torch.manual_seed(len(name))
    extra = {"init_weights": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, num_classes=3, **extra)
    size = 299 if name == "inception_v3" else 224
    x = picture(size)
    for (
        m
    ) in (
        net.modules()
    ):  # batch norms that know such pictures: their first variance of 1 lets nothing through to the logits
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = None  # the plain mean
    with torch.no_grad():
        net(torch.cat((x, torch.rand_like(x))))
    net.eval()
    with torch.no_grad():  # logits of about 1, lest a bound of 1e-4 forgive anything (MobileNet's head begins at 0.01)
        head = [m for m in net.modules() if isinstance(m, torch.nn.Linear)] or [
            m for m in net.modules() if isinstance(m, torch.nn.Conv2d)
        ]
        head[-1].weight.mul_(1 / net(x).std())
    torch.save(net.state_dict(), folder / (name + ".pt"))
    torch.save(net.state_dict(), folder / (name + ".pth"), _use_new_zipfile_serialization=False)
    np.save(folder / (name + ".x.npy"), x.numpy())
    with torch.no_grad():
        np.save(folder / (name + ".logits.npy"), net(x).numpy())


def more(name):
    state = torch.load(folder / (name + ".pt"), weights_only=True)
    torch.save(state, folder / (name + ".torch2.pt"))
    try:
        from safetensors.torch import save_file
        save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / (name + ".safetensors"))
    except ImportError:
        print("no safetensors library here: left out")


def open_ours():
    failed = count = 0
    for path in sorted((folder / "ours").iterdir()):
        if path.suffix == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ImportError:
                continue
            state = load_file(path)
        else:
            state = torch.load(path, weights_only=True)
        want = torch.load(folder / (path.stem + ".pt"), weights_only=True)
        same = len(state) == len(want) and all(
            torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in want.items()
        )
        order = path.suffix == ".safetensors" or list(state) == list(want)
        count += 1
        failed += not (same and order)
        print(
            "torch %-14s opens %-28s %d tensors: %s"
            % (torch.__version__, path.name, len(state), "equal" if same and order else "FAILED")
        )
    if count == 0:
        print("nothing to open in", folder / "ours")
    return failed > 0 or count == 0


if what == "open":
    sys.exit(open_ours())
for n in networks:
    {"write": write, "more": more}[what](n)
