#!/usr/bin/python3
"""The seven networks of torchvision on formula-made weights and one coloured, non-square input: what
parity_networks.lua
is compared with. Writes one JSON file a network (small: integer checksums over all bits, and a few samples).

    networks.py OUT [--small] [--threads N] [NAME ...]

Runs on the reference environment (a): torch 1.13.1, torchvision 0.14.1, the same libtorch as the default build.
--small writes what the repository holds: float64 only, fewer stages.
"""

import argparse, json, os, sys, warnings
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

warnings.filterwarnings("ignore")
HIDDEN = {
    "mobilenet_v2": 512,
    "efficientnet_b0": 512,
    "densenet121": 256,
    "resnet50": 512,
    "inception_v3": 256,
    "vgg19": 256,
}
INPUT = {
    "mobilenet_v2": 1280,
    "efficientnet_b0": 1280,
    "densenet121": 1024,
    "resnet50": 2048,
    "inception_v3": 2048,
    "vgg19": 25088,
}
NAMES = ["squeezenet1_0", "mobilenet_v2", "efficientnet_b0", "densenet121", "resnet50", "inception_v3", "vgg19"]
HEAD = {"resnet50": "fc", "inception_v3": "fc"}


def uniform(n, key):
    """n float64 numbers in [0, 1) from integers alone: the same bits on every machine. parity_networks.lua has the
    same."""
    start = (key + 1) * 1442695040888963407 % 2**64
    u = torch.arange(1, n + 1, dtype=torch.int64) * 6364136223846793005 + (start - 2**64 if start >= 2**63 else start)
    u = u ^ ((u >> 32) & 0xFFFFFFFF)
    u = u * 3935559000370003845
    u = u ^ ((u >> 29) & 0x7FFFFFFFF)
    return ((u >> 40) & 0xFFFFFF).to(torch.float64) / 16777216.0


def fill(model):
    for key, (name, t) in enumerate(model.state_dict().items()):
        u = uniform(t.numel(), key).view(t.shape)
        if name.endswith("num_batches_tracked"):
            v = torch.zeros_like(u)
        elif t.dim() > 1:
            v = (u - 0.5) * (2 * (6.0 / (t.numel() / t.size(0))) ** 0.5)
        elif name.endswith("running_var"):
            v = u + 0.5
        elif name.endswith("running_mean"):
            v = (u - 0.5) * 0.4
        elif name.endswith("bias"):
            v = (u - 0.5) * 0.2
        elif name.endswith("bn3.weight"):
            v = u * 0.1 + 0.15  # resnet's residual branches: keeps the logits near 1
        else:
            v = u * 0.5 + 0.75
        t.copy_(v)


def build(name, p=None, **kw):
    """torchvision's network with the thesis' head; p: of every dropout (None: as they are)."""
    m = getattr(torchvision.models, name)(weights=None, **kw)
    if name == "squeezenet1_0":
        m.classifier[1] = nn.Conv2d(512, 3, kernel_size=1)
    else:
        head = nn.Sequential(OrderedDict([
            ("fc1", nn.Linear(INPUT[name], HIDDEN[name])), ("relu", nn.ReLU()),
            ("dropout", nn.Dropout(0.5)), ("fc2", nn.Linear(HIDDEN[name], 3))]))
        setattr(m, HEAD.get(name, "classifier"), head)
        if name == "inception_v3":
            m.AuxLogits.fc = nn.Linear(768, 3)
    if p is not None:
        for module in m.modules():
            if isinstance(module, (nn.Dropout, torchvision.ops.StochasticDepth)):
                module.p = p
    return m


def picture(name):
    """(2, 3, 320, 211), different in each quadrant and channel; inception_v3's auxiliary branch needs 299: (2, 3, 320,
    305)."""
    w = 305 if name == "inception_v3" else 211
    x = uniform(2 * 3 * 320 * w, 1000).view(2, 3, 320, w)
    x[:, 0, :160, :100] *= 0.25
    x[:, 1, 160:, :] *= 0.5
    x[:, 2, :, 100:] = x[:, 2, :, 100:] * 0.5 + 0.5
    return x


def checksum(t):
    """Over all bits, position by position; integers only, modulo 2^64."""
    t = t.detach().contiguous()
    bits = {torch.float32: torch.int32, torch.float64: torch.int64, torch.int64: torch.int64}[t.dtype]
    v = t.view(-1).view(bits).to(torch.int64)
    w = torch.arange(v.numel(), dtype=torch.int64) * 2862933555777941757 + 3037000493
    return str(int((v * w).sum()))


def summary(t, samples=8):
    flat = t.detach().reshape(-1)
    at = [(i * 7919 + 13) % flat.numel() for i in range(min(samples, flat.numel()))]
    return {"shape": list(t.shape), "sum": checksum(t), "at": at, "values": [float(flat[i]) for i in at]}


def stages(model, name, x, small):
    names = get_graph_node_names(model, suppress_diff_warning=True)[1]
    wanted = [n for n in names if n != "x"]
    if small:
        wanted = wanted[:: max(1, len(wanted) // 12)]
    out = OrderedDict()
    # out of place: in-place activations would overwrite the stage before them
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    with torch.no_grad():
        for n in wanted:
            out[n] = None
        got = create_feature_extractor(model.eval(), return_nodes={n: n for n in wanted}, suppress_diff_warning=True)(x)
    # a functional in-place relu (inception's, densenet's last) overwrites its batch norm: those stages are left out
    skip = {
        n
        for n in wanted
        if name == "inception_v3"
        and n.endswith(".bn")
        or name == "densenet121"
        and n == "features.norm5"
        or name == "resnet50"
        and n.endswith(".bn3")
        or name == "efficientnet_b0"
        and n.endswith("stochastic_depth")
        or name == "efficientnet_b0"
        and n.endswith(".block.3")
    }
    return OrderedDict((n, summary(got[n], 4 if small else 8)) for n in wanted if n not in skip)


def train_step(name, dtype, p, seed, x):
    m = build(name, p, **init(name)).to(dtype)
    with torch.no_grad():
        fill(m)
    m.train()
    torch.manual_seed(seed)
    y = torch.tensor([0, 2])
    out = m(x.to(dtype))
    logits, aux = out if name == "inception_v3" else (out, None)
    loss = F.cross_entropy(logits, y)
    if aux is not None:
        loss = loss + 0.4 * F.cross_entropy(aux, y)
    loss.backward()
    result = {"logits": summary(logits), "loss": summary(loss), "grads": OrderedDict(), "buffers": OrderedDict()}
    if aux is not None:
        result["aux"] = summary(aux)
    for n, q in m.named_parameters():
        result["grads"][n] = summary(q.grad, 2)
    for n, b in m.named_buffers():
        result["buffers"][n] = summary(b, 2)
    return result


def init(name):
    return {"init_weights": False} if name in ("inception_v3", "vgg19") else {}


def initial(name):
    torch.manual_seed(42)
    kw = {"init_weights": True} if name == "inception_v3" else {}
    return OrderedDict((n, summary(t, 2)) for n, t in build(name, **kw).state_dict().items())


def dump(name, small):
    x = picture(name)
    m = build(name, 0.0, **init(name)).double()
    with torch.no_grad():
        fill(m)
    m.eval()
    out = {
        "name": name,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "threads": torch.get_num_threads(),
    }
    with torch.no_grad():
        out["logits64"] = summary(m(x))
    out["state"] = [[n, list(t.shape)] for n, t in m.state_dict().items()]
    nodes = get_graph_node_names(m, suppress_diff_warning=True)
    out["nodes"] = nodes[0]
    out["stages64"] = stages(m, name, x, small)
    if name == "inception_v3":
        t = build(name, 0.0, init_weights=False, transform_input=True).double()
        with torch.no_grad():
            fill(t)
            out["transformed64"] = summary(t.eval()(x))
    if small:
        return out
    m = build(name, 0.0, **init(name))
    with torch.no_grad():
        fill(m)
    m.eval()
    x32 = x.float()
    with torch.no_grad():
        out["logits32"] = summary(m(x32))
        c = m.to(memory_format=torch.channels_last)
        out["channels_last32"] = summary(c(x32.contiguous(memory_format=torch.channels_last)))
        m = m.to(memory_format=torch.contiguous_format)
    out["stages32"] = stages(m, name, x32, small)
    out["train64"] = train_step(name, torch.float64, 0.0, 7, x)
    out["train32"] = train_step(name, torch.float32, 0.0, 7, x)
    out["dropout32"] = train_step(name, torch.float32, None, 7, x)
    out["initial"] = initial(name)
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out")
    a.add_argument("names", nargs="*")
    a.add_argument("--small", action="store_true")
    a.add_argument("--threads", type=int, default=2)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    for name in a.names or NAMES:
        with open(os.path.join(a.out, name + ".json"), "w") as f:
            json.dump(dump(name, a.small), f, separators=(",", ":"))
        print("reference:", name, file=sys.stderr)


main()
