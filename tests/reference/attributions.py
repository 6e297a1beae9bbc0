"""Attributions at the input by captum 0.9 (environment b), in float64: saliency, input x gradient, integrated
gradients, SmoothGrad with
recorded noise, guided backprop. They are compared in float64, where nothing depends on the version of libtorch, so the
program's usual
build serves.

    python attributions.py toy OUT                   the small dumps that are committed (tests/reference/cam)
    python attributions.py networks OUT GRADCAM [network ...]  the networks and images that gradcam.py left
"""

import sys
from pathlib import Path

import numpy as np
import torch
from captum.attr import GuidedBackprop, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency

SAMPLES = 25


def noise(n, shape):
    """n copies of (C, H, W) by formula: something normal enough that needs no file."""
    k = np.arange(n * int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy((2 ** 0.5 * np.sin(k * 0.7 + 0.3 * np.sin(k * 0.013)) * np.cos(k * 1.3)).reshape(n, *shape))


def smoothgrad(model, x, target):
    """One image; NoiseTunnel asks torch.normal for its noise, which is ours here: its std comes as float32,
    0.15000000596, and where a network
    has many kinks 1e-8 of noise moves the mean gradient by 1e-3."""
    own, torch.normal = torch.normal, lambda mean, std: noise(SAMPLES, x.shape[1:]) * 0.15
    try:
        return NoiseTunnel(Saliency(model)).attribute(
            x, nt_type="smoothgrad", nt_samples=SAMPLES, stdevs=0.15, target=target, abs=False
        )
    finally:
        torch.normal = own


METHODS = {
    "saliency": lambda m, x, t: Saliency(m).attribute(x, target=t, abs=True),
    "input_x_gradient": lambda m, x, t: InputXGradient(m).attribute(x, target=t),
    "integrated_gradients": (
        lambda m, x, t: IntegratedGradients(m).attribute(
            x, baselines=0.0, target=t, n_steps=50, method="gausslegendre", internal_batch_size=10
        )
    ),
    "smoothgrad": smoothgrad,
    "guided_backprop": lambda m, x, t: GuidedBackprop(m).attribute(x, target=t),
}


def attribute(model, x, name):
    """(N, H, W): colour channels summed; the predicted class."""
    rows = []
    for i in range(len(x)):
        one = x[i:i + 1].clone().requires_grad_(True)
        target = int(model(one).argmax())
        rows.append(METHODS[name](model, one, target).detach().sum(1)[0].numpy())
    return np.stack(rows)


def toy(out):
    from toy import Toy, toy_images
    for name in METHODS:
        model = Toy("relu", False).eval()
        np.save(out / f"{name}.npy", attribute(model, toy_images(), name))
    print("predicted", model(toy_images()).argmax(1).tolist())


def networks(out, grad, names):
    from vision import torchvision
    for name in names:
        folder = grad / name
        model = getattr(torchvision.models, name)(
            weights=None, num_classes=3, **({"init_weights": False} if name == "inception_v3" else {})
        )
        model.load_state_dict(torch.load(folder / "weights.pt"))
        model.double().eval()
        for module in model.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        x = torch.from_numpy(np.load(folder / "square.x.npy"))[[-1] if name == "vgg19" else [0, -1]].double()
        for method in METHODS:
            if method == "guided_backprop" and name not in ("squeezenet1_0", "resnet50", "vgg19"):
                continue  # captum replaces torch.nn.ReLU modules: elsewhere it guides a part of the rectifiers only
            np.save(out / name / f"captum.{method}.npy", attribute(model, x, method))
        print(name, "done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "toy":
        toy(Path(sys.argv[2]))
    else:
        networks(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
