"""Class activation maps by pytorch-grad-cam 1.5.7 (environment a: Debian's torch and torchvision).

    python cam.py toy OUT                              the small dumps that are committed (tests/reference/cam)
    python cam.py networks OUT GRADCAM [network ...]   the seven networks as gradcam.py trained them, for
    tests/parity_cam.lua

The library is used as it comes but for what its own interface lets one choose: an ablation layer that always fills zero
and
weights that do not turn round with the score's sign (our default form of Ablation-CAM), and rectifiers out of place; in
that form also without the numbers that it adds to divisors (1e-7, 1e-6), which make a map depend on its target's scale.
Signs of
principal components are recorded: they are compared apart from the maps.

What would take the library days is shortened without touching a number: what comes before a network's last layer is
computed once an
image (Behind; the two halves are compared with the whole first); weights of Score-CAM and Ablation-CAM, which do not
depend on
eigen_smooth, are kept from call to call; Score-CAM runs on smaller pictures. A cell is made in one form only where both
must agree.
Where gradients jump (inner layers, FullGrad) float32 is dumped in both memory layouts: which rectifier a rounding tips
over is chance, and both are the reference's.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytorch_grad_cam as pgc
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from toy import Toy, toy_images

METHODS = {  # ours -> the library's
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
ORIGINAL = dict(METHODS)
SMOOTHINGS = {"plain": (False, False), "aug": (True, False), "eigen": (False, True), "both": (True, True)}
SEED = 42

signs = (
    []
# one a principal component: +1 where it correlates positively with the sum of its channels; the singular values' ratio;
# r
)
projections = []


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
            projections.append(one)
            signs.append(
                (
                    1.0 if a @ b >= 0 else -1.0,
                    (s[1] if len(s) > 1 else 0) / max(s[0], 1e-300),
                    (a @ b) / scale if scale > 0 else 0,
                )
            )
        return out
    module.get_2d_projection = wrapped


for name in (
    "base_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "hirescam",
    "layer_cam",
    "grad_cam_elementwise",
    "fullgrad_cam",
):
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


class PlainPlusPlus(pgc.GradCAMPlusPlus):
    """Chattopadhay et al. 2018, eq. 19, divided by the squared gradient: nothing is added to the denominator."""

    def get_cam_weights(self, x, layer, targets, activations, grads):
        alpha = np.where(grads != 0, 1 / (2 + activations.sum(axis=(2, 3), keepdims=True) * grads), 0)
        return (np.maximum(grads, 0) * alpha).sum(axis=(2, 3))


class PlainX(pgc.XGradCAM):
    def get_cam_weights(self, x, layer, targets, activations, grads):
        total = activations.sum(axis=(2, 3))
        weights = (grads * activations).sum(axis=(2, 3))
        there = np.abs(total) > 1e-12 * np.abs(activations).sum(axis=(2, 3))
        return np.where(there, weights / np.where(total == 0, 1, total), 0)


PLAIN = {"ablationcam": PlainAblation, "gradcam_plus_plus": PlainPlusPlus, "xgradcam": PlainX}
images = sys.modules["pytorch_grad_cam.utils.image"]
scale_as_is = images.scale_cam_image


def scale_plain(cam, target_size=None):
    """scale_cam_image without the 1e-7: a map whose range is rounding is zero."""
    out = []
    for one in cam:
        shifted = one - one.min()
        top = shifted.max()
        one = shifted / top if top > 1e-13 * np.abs(one).max() else np.zeros_like(one)
        out.append(one if target_size is None else images.cv2.resize(np.float32(one), target_size))
    return np.float32(out)


def choose_scale(form):
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("pytorch_grad_cam") and hasattr(module, "scale_cam_image"):
            module.scale_cam_image = scale_plain if form == "out" else scale_as_is


def cam(method, model, layers, x, aug, eigen, form, targets=None):
    """Maps (N, H, W), float32; and the signs, ratios and correlations of their principal components in the order in
    which they were made."""
    cls = METHODS[method]
    if form == "out" and cls is ORIGINAL[method]:
        cls = PLAIN.get(method, cls)
    choose_scale(form)
    signs.clear()
    projections.clear()
    np.random.seed(SEED)
    if form == "out" and targets is None:  # our default: the unaugmented image's class
        with torch.no_grad():
            targets = [ClassifierOutputTarget(int(k)) for k in model(x).argmax(1)]
    c = cls(model, [] if method == "fullgrad" else layers)  # its own with block would swallow an IndexError
    maps = np.float32(c(input_tensor=x, targets=targets, aug_smooth=aug, eigen_smooth=eigen))
    c.activations_and_grads.release()
    return maps, list(signs)


# ---- the committed dumps
# ---------------------------------------------------------------------------------------------------------

def toy(out):
    """maps.npy: one row a cell, every other pixel of (2, 24, 34); cells.txt: act layers method smoothing form, then the
    signs of its principal components,
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
                    if (
                        len(layers) == 2
                        and smoothing in ("aug", "eigen")
                        or (eigen and method in ("eigencam", "eigengradcam"))
                    ):
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
                        lines.append(
                            " ".join([act, "+".join(layers), method, smoothing, form] + [f"{s[0]:+.0f}" for s in made])
                        )
    np.save(out / "maps.npy", np.stack(rows))
    (out / "cells.txt").write_text("\n".join(lines) + "\n")
    print(len(rows), "cells", np.stack(rows).nbytes, "bytes")


# ---- the seven networks
# -----------------------------------------------------------------------------------------------------------

class Tap(torch.nn.Module):
    """Where the library hooks in: a copy of what comes, which a rectifier in place may then overwrite as it does in the
    network."""

    def forward(self, x):
        return x.clone()


class Stop(Exception):
    pass


class Behind(torch.nn.Module):
    """A network at its last layer: what comes before is computed once an image and kept, the layer is a tap, what
    follows is the network's
    own. All that a CAM sees of the network, activation, gradient, score and ablation, is what the whole network gives.
    """

    def __init__(self, name, net, layer):
        super().__init__()
        self.name, self.net, self.tap, self.kept, self.branches = name, net, Tap(), {}, {}
        layer_of(net, layer).register_forward_hook(self.stop)
        if name == "inception_v3":
            for part in ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b"):
                getattr(net.Mixed_7c, part).register_forward_hook(
                    lambda m, i, o, part=part: self.branches.__setitem__(part, o)
                )

    def stop(self, module, inputs, output):
        self.found = output.clone()
        raise Stop

    def before(self, x):
        key = x.detach().numpy().tobytes() if len(x) == 1 else None
        if key not in self.kept:
            try:
                with torch.no_grad():
                    self.net(x)
            except Stop:
                pass
            found = self.found, dict(self.branches)
            if key is None:
                return found
            self.kept[key] = found
        return self.kept[key]

    def tail(self, z, branches):
        net, f = self.net, torch.nn.functional
        if self.name == "squeezenet1_0":
            return torch.flatten(net.classifier(z), 1)
        if self.name in ("mobilenet_v2", "efficientnet_b0"):
            return net.classifier(f.adaptive_avg_pool2d(z, 1).flatten(1))
        if self.name == "densenet121":
            return net.classifier(f.adaptive_avg_pool2d(f.relu(z, inplace=True), 1).flatten(1))
        if self.name == "inception_v3":
            z = torch.cat([b.expand(len(z), *b.shape[1:]) for b in branches.values()] + [z], 1)
        if self.name == "vgg19":
            return net.classifier(net.avgpool(z).flatten(1))
        return net.fc(net.avgpool(z).flatten(1))

    def forward(self, x):
        if isinstance(self.tap, AblationLayer):  # ignores what comes; the image is the one seen last
            return self.tail(self.tap(x), self.last)
        found, self.last = self.before(x)
        return self.tail(self.tap(found.clone().requires_grad_(torch.is_grad_enabled())), self.last)


class Memo:
    """Keeps the channel weights of calls with the same input."""

    def __init__(self, cls):
        self.cls, self.kept = cls, {}

    def method(self, key):
        kept = self.kept

        class Kept(self.cls):
            def get_cam_weights(self, x, layer, targets, activations, grads):
                own = key, x.detach().numpy().tobytes(), str([t.category for t in targets])
                if own not in kept:
                    kept[own] = super().get_cam_weights(x, layer, targets, activations, grads)
                return kept[own]
        return Kept


def layer_of(net, name):
    for part in name.split("."):
        net = net[int(part)] if part.isdigit() else getattr(net, part)
    return net


built = {}


def build(name, folder, bits, form, fresh=False):
    import gradcam
    import torchvision
    gradcam.rectifiers(in_place=form == "asis")  # of all networks from now on
    if built.get("key") == (name, bits) and not fresh:
        return built["net"]
    net = getattr(torchvision.models, name)(
        weights=None, num_classes=3, **({"init_weights": False} if name == "inception_v3" else {})
    )
    net.load_state_dict(torch.load(folder / "weights.pt"))
    net = (net.double() if bits == 64 else net).eval()
    if not fresh:
        built.update(key=(name, bits), net=net)
    return net


def argmax_moves(net, x):
    """Whether some view of some image has another predicted class than the image."""
    import ttach
    with torch.no_grad():
        own = net(x).argmax(1)
        views = ttach.Compose([ttach.HorizontalFlip(), ttach.Multiply(factors=[0.9, 1, 1.1])])
        return any(bool((net(v.augment_image(x)).argmax(1) != own).any()) for v in views)


def check_behind(name, net, layer, x):
    """The network and its two halves give the same."""
    with torch.no_grad():
        whole = net(x)
        halves = Behind(name, net, layer)(x)
    layer_of(net, layer)._forward_hooks.clear()
    assert float((whole - halves).abs().max()) == 0, name


def network(out, grad, name):
    from gradcam import NETWORKS
    folder, out = grad / name, out / name
    out.mkdir(parents=True, exist_ok=True)
    layer = NETWORKS[name][0]
    square, wide = (torch.from_numpy(np.load(folder / f"{kind}.x.npy")) for kind in ("square", "wide"))
    side = 64 if name == "resnet50" else 96  # 2048 channels, a pass each
    small = (
        square[[0, 3]]
        if name == "inception_v3"
        else torch.nn.functional.interpolate(square[[0, 3]], size=(side, side), mode="area")
    )
    np.save(out / "small.x.npy", small.numpy())
    info = {"layer": layer, "cells": []}

    def dump(method, kind, x, images, smoothing, form, bits, model, layers, cls=None, names=None, layout=""):
        x = x.double() if bits == 64 else x
        if layout:
            x = x.contiguous(memory_format=torch.channels_last)
        aug, eigen = SMOOTHINGS[smoothing]
        maps, made, shown, own = [], [], [], METHODS[method]
        METHODS[method] = cls or own
        for i in images:
            m, s = cam(method, model, layers, x[i:i + 1], aug, eigen, form)
            maps.append(m[0])
            made.append(s)
            shown.append(list(projections))
        METHODS[method] = own
        key = ".".join([method, kind, smoothing, form] + (names or []))
        np.save(out / f"{key}.{bits}{layout}.npy", np.stack(maps))
        if made[0]:
            np.save(out / f"{key}.{bits}{layout}.projections.npy", np.stack([np.stack(p) for p in shown]))
        if bits == 64:
            info["cells"].append(
                {
                    "key": key,
                    "method": method,
                    "kind": kind,
                    "images": images,
                    "smoothing": smoothing,
                    "form": form,
                    "layers": names or [layer],
                    "ratios": [[float(v[1]) for v in s] for s in made],
                }
            )

    moved = {}

    def forms(x, smoothing, aliased):
        """asis alone where it cannot differ from the form with rectifiers out of place and the class fixed."""
        aug = SMOOTHINGS[smoothing][0]
        if aug and x.shape not in moved:
            moved[x.shape] = argmax_moves(build(name, folder, 32, "out"), x)
        return ("asis", "out") if aliased or aug and moved[x.shape] else ("asis",)

    def jumping(bits, layout):
        """Where gradients jump: inner layers, and in channels_last FullGrad, whose other layout is dumped with the
        rest."""
        for smoothing, images in (("plain", [0, 3]), ("both", [3])):
            for form in forms(square[images], smoothing, name == "vgg19"):
                net = build(name, folder, bits, form, fresh=bool(layout))
                net = net.to(memory_format=torch.channels_last) if layout else net
                for other in COMPARE[name]:
                    dump(
                        "gradcam",
                        "square",
                        square,
                        images,
                        smoothing,
                        form,
                        bits,
                        net,
                        [layer_of(net, other)],
                        names=[other],
                        layout=layout,
                    )
        for kind, x, images, smoothing in sets if layout and name != "inception_v3" else ():
            for form in ("asis", "out"):
                net = build(name, folder, bits, form, fresh=True).to(memory_format=torch.channels_last)
                dump("fullgrad", kind, x, images, smoothing, form, bits, net, [], layout=layout)

    aliased = name == "densenet121"  # the layer is followed by a rectifier in place
    sets = [("square", square, [0, 1, 2, 3], "plain"), ("wide", wide, [0], "plain")] + [
        ("square", square, [0, 3], s) for s in ("aug", "eigen", "both")
    ]
    check_behind(name, build(name, folder, 64, "out"), layer, square[:1].double())
    for bits in (64, 32):
        for kind, x, images, smoothing in sets:
            usual = forms(x[images], smoothing, aliased)
            for form in ("asis", "out"):
                net = build(name, folder, bits, form)
                behind = Behind(name, net, layer).eval()
                for method in METHODS:
                    if method in ("scorecam", "ablationcam", "fullgrad") or (method == "randomcam" and form == "out"):
                        continue
                    if form not in usual and method not in PLAIN:
                        continue
                    if not (method in ("eigencam", "eigengradcam") and smoothing in ("eigen", "both")):
                        dump(method, kind, x, images, smoothing, form, bits, behind, [behind.tap])
                layer_of(net, layer)._forward_hooks.clear()
            for form in ("asis", "out") if name != "inception_v3" else ():  # the library's FullGrad stops there
                dump("fullgrad", kind, x, images, smoothing, form, bits, build(name, folder, bits, form), [])
        print(name, bits, "methods of one pass done", flush=True)
        for form in ("asis", "out"):
            memo = Memo(pgc.AblationCAM if form == "asis" else PlainAblation).method(form)
            net = build(name, folder, bits, form)
            behind = Behind(name, net, layer).eval()
            for smoothing in SMOOTHINGS:
                dump("ablationcam", "square", square, [0, 3], smoothing, form, bits, behind, [behind.tap], cls=memo)
            layer_of(net, layer)._forward_hooks.clear()
            if form == "out" and len(forms(small, "aug", aliased)) == 1:
                continue
            memo = Memo(pgc.ScoreCAM).method(form)
            net = build(name, folder, bits, form)
            for smoothing in SMOOTHINGS:
                images = [1] if SMOOTHINGS[smoothing][0] else [0, 1]
                dump("scorecam", "small", small, images, smoothing, form, bits, net, [layer_of(net, layer)], cls=memo)
        print(name, bits, "methods of many passes done", flush=True)
        for layout in ("", "cl") if bits == 32 else ("",):
            jumping(bits, layout)
    guided(out, folder, name, square, wide)
    (out / "cells.json").write_text(json.dumps(info, sort_keys=True) + "\n")
    print(name, "done", flush=True)


COMPARE = {  # the other layers of the thesis' comparison, by torchvision's names
    "squeezenet1_0": ["features.9", "features.7", "features.4"],
    "mobilenet_v2": ["features.14", "features.10", "features.6"],
    "efficientnet_b0": ["features.7", "features.6", "features.4"],
    "densenet121": [
        "features.denseblock3.denselayer24",
        "features.denseblock2.denselayer12",
        "features.denseblock1.denselayer6",
    ],
    "resnet50": ["layer3.5", "layer2.3", "layer1.2"],
    "inception_v3": ["Mixed_6e.branch_pool", "Mixed_5d.branch_pool", "Conv2d_4a_3x3"],
    "vgg19": ["features.28", "features.19", "features.10"],
}


def guided(out, folder, name, square, wide):
    """Guided backprop by the library (torch.nn.ReLU modules alone), and by a function in the place of every
    rectifier."""
    F = torch.nn.functional

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, limit):
            ctx.save_for_backward(x)
            ctx.limit = limit
            return x.clamp(min=0, max=limit)

        @staticmethod
        def backward(ctx, g):
            x, = ctx.saved_tensors
            passes = (x > 0) & (x < ctx.limit) if ctx.limit else x > 0
            return g.clamp(min=0) * passes, None

    for bits in (64, 32):
        for kind, x in (("square", square), ("wide", wide)):
            x = x.double() if bits == 64 else x
            rows = []
            for i in range(len(x)):
                rows.append(
                    pgc.GuidedBackpropReLUModel(model=build(name, folder, bits, "out", fresh=True))(
                        x[i : i + 1].clone()
                    ).sum(-1)
                )
            np.save(out / f"guided.{kind}.{bits}.npy", np.stack(rows))
            if name == "efficientnet_b0":
                continue
            net, rows, kept = build(name, folder, bits, "out", fresh=True), [], (F.relu, F.relu6, F.hardtanh)
            F.relu = lambda v, inplace=False: Guided.apply(v, None)
            F.relu6 = lambda v, inplace=False: Guided.apply(v, 6.0)
            F.hardtanh = lambda v, *a, **k: Guided.apply(v, 6.0)
            for i in range(len(x)):
                one = x[i:i + 1].clone().requires_grad_(True)
                y = net(one)
                rows.append(torch.autograd.grad(y[0, int(y.argmax())], one)[0].sum(1)[0].numpy())
            F.relu, F.relu6, F.hardtanh = kept
            np.save(out / f"guided_all.{kind}.{bits}.npy", np.stack(rows))


if __name__ == "__main__":
    if sys.argv[1] == "toy":
        toy(Path(sys.argv[2]))
    else:
        from gradcam import NETWORKS as ALL
        for one in sys.argv[4:] or ALL:
            network(Path(sys.argv[2]), Path(sys.argv[3]), one)
