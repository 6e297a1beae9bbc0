"""Grad-CAM by pytorch-grad-cam 1.5.7 (environment a: Debian's torch and torchvision): the networks, images and first
maps of
parity_cam.lua and parity_cam_scores.lua.

    python gradcam.py OUT DATA [network ...]     the seven networks, trained a little, on real images and a made one
    python gradcam.py --tiny OUT                 the small dump that is committed (tests/reference/gradcam_tiny.npy ...)

For each network: weights, inputs, logits, and the maps of the reference in float64 and float32, with out-of-place
rectifiers and as they come (in place: on a CPU the stored activation is then the rectified one).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

F = torch.nn.functional
NETWORKS = {  # CAM layers by torchvision's names; the first is the thesis' one
    "squeezenet1_0": ["features.12"],
    "mobilenet_v2": ["features.18"],
    "efficientnet_b0": ["features.8"],
    "densenet121": ["features.norm5"],
    "resnet50": ["layer4.2"],
    "inception_v3": ["Mixed_7c.branch_pool"],
    "vgg19": ["features.36", "features.28"],
}
NAMES = {"relu": F.relu, "relu6": F.relu6, "hardtanh": F.hardtanh, "silu": F.silu}


def rectifiers(in_place):
    """Makes every rectifier of torchvision work out of place, or puts them back."""
    for name, own in NAMES.items():
        def wrapped(x, *rest, own=own, **named):
            named.pop("inplace", None)
            return own(x, *[r for r in rest if not isinstance(r, bool)], **named)
        setattr(F, name, own if in_place else wrapped)


def made_image():
    """320 x 211, coloured, different in each quadrant and channel."""
    h, w = 211, 320
    y, x = np.mgrid[0:h, 0:w]
    image = np.zeros((h, w, 3), np.uint8)
    image[..., 0] = (x * 255 // w) * (y < h // 2)
    image[..., 1] = ((x // 16 + y // 16) % 2) * 200 * (x < w // 2) + 30
    image[..., 2] = 255 * np.exp(-((x - 250) ** 2 + (y - 160) ** 2) / 2000.0)
    return Image.fromarray(image)


def read(path, size):
    resize = torchvision.transforms.Resize(size)
    crop = torchvision.transforms.CenterCrop(size)
    return torchvision.transforms.ToTensor()(
        crop(resize(path if isinstance(path, Image.Image) else Image.open(path).convert("RGB")))
    )


def images(data, split, n):
    out = []
    for label, name in enumerate(["COVID-19", "Non-COVID", "Normal"]):
        folder = Path(data) / "Lung Segmentation Data" / split / name / "images"
        out += [(p, label) for p in sorted(folder.iterdir())[:n]]
    return out


def train(model, data, size, steps, batch=8):
    """A few steps, so that maps hold something."""
    files = images(data, "Train", 32)
    order = np.random.RandomState(0).permutation(len(files))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.9)
    model.train()
    for step in range(steps):
        chosen = [files[order[(step * batch + i) % len(files)]] for i in range(batch)]
        x = torch.stack([read(p, size) for p, _ in chosen])
        y = torch.tensor([label for _, label in chosen])
        out = model(x)
        loss = F.cross_entropy(out if torch.is_tensor(out) else out.logits, y)
        if not torch.is_tensor(out):
            loss = loss + 0.4 * F.cross_entropy(out.aux_logits, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    # running statistics of so short a training are far off: take the data's own
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None
    with torch.no_grad():
        for i in range(0, 24, batch):
            model(torch.stack([read(p, size) for p, _ in files[i::24][:batch]]))
    return model.eval()


def layer_of(model, name):
    for part in name.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def cam(model, layer, x, targets=None):
    maps = []
    for i in range(len(x)):  # one by one: the reference batches exactly, but memory is small here
        with GradCAM(model=model, target_layers=[layer_of(model, layer)]) as g:
            maps.append(g(input_tensor=x[i:i + 1], targets=targets)[0])
    return np.stack(maps)


def dump(out, name, data):
    out = out / name
    out.mkdir(parents=True, exist_ok=True)
    size = 299 if name == "inception_v3" else 224
    torch.manual_seed(1)
    build = getattr(torchvision.models, name)
    model = build(weights=None, num_classes=3, **({"init_weights": True} if name == "inception_v3" else {}))
    model = train(model, data, size, 1 if name == "vgg19" else 24)
    torch.save(model.state_dict(), out / "weights.pt")
    made_image().save(out / "made.png")
    square = torch.stack([read(images(data, "Test", 1)[k][0], size) for k in range(3)] + [read(made_image(), size)])
    wide = torchvision.transforms.ToTensor()(made_image())[None]
    inputs = {"square": square, "wide": wide}
    info = {"layers": NETWORKS[name], "size": size, "torch": torch.__version__}
    for kind, x in inputs.items():
        np.save(out / f"{kind}.x.npy", x.numpy())
        with torch.no_grad():
            np.save(out / f"{kind}.logits.npy", model.double()(x.double()).numpy())
        for form in ("out", "asis"):
            for bits in (64, 32):
                for layer in NETWORKS[name]:
                    rectifiers(in_place=form == "asis")
                    fresh = build(
                        weights=None, num_classes=3, **({"init_weights": False} if name == "inception_v3" else {})
                    )
                    fresh.load_state_dict(torch.load(out / "weights.pt"))
                    fresh = fresh.double() if bits == 64 else fresh
                    fresh.eval()
                    xs = x.double() if bits == 64 else x
                    np.save(out / f"{kind}.{layer}.{form}.{bits}.npy", cam(fresh, layer, xs).astype(np.float64))
                    if form == "out":
                        np.save(out / f"{kind}.{layer}.class1.{bits}.npy",
                                cam(fresh, layer, xs, [ClassifierOutputTarget(1)]).astype(np.float64))
        rectifiers(in_place=True)
    (out / "info.json").write_text(json.dumps(info, sort_keys=True) + "\n")
    print(name, "done", flush=True)


class Tiny(torch.nn.Module):
    """conv - relu - conv (the tapped layer) - relu in place - mean - linear; weights by formula, so that no file is
    needed."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, 2, 1)
        self.conv2 = torch.nn.Conv2d(4, 6, 3, 2, 1)
        self.relu = torch.nn.ReLU(inplace=True)
        self.fc = torch.nn.Linear(6, 3)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(torch.from_numpy(np.sin(np.arange(p.numel()) * (0.7 + 0.3 * k) + k)).reshape(p.shape) * 0.5)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        return self.fc(self.relu(self.conv2(x)).mean((2, 3)))


def tiny(out):
    """Inputs 2 x 3 x 21 x 32 by formula; float64 maps, out of place and as it is."""
    n = np.arange(2 * 3 * 21 * 32, dtype=np.float64)
    x = torch.from_numpy(0.5 + 0.5 * np.sin(n * 0.013) * np.cos(n * 0.0007)).reshape(2, 3, 21, 32)
    for form in ("out", "asis"):
        model = Tiny().double().eval()
        model.relu.inplace = form == "asis"
        maps = cam(model, "conv2", x).astype(np.float32)
        np.save(out / f"gradcam_tiny_{form}.npy", maps)
        print(form, maps.shape, model(x).argmax(1).tolist(), maps.max(), maps.mean())


if __name__ == "__main__":
    if sys.argv[1] == "--tiny":
        tiny(Path(sys.argv[2]))
    else:
        for network in sys.argv[3:] or NETWORKS:
            dump(Path(sys.argv[1]), network, sys.argv[2])
