"""work.py DEVICE train|explain full|smoke NETWORK...: the other side of work.lua: torchvision's networks by PyTorch,
and pytorch-grad-cam, lime and shap. Prints the same lines; what is not installed is left out, with a word on stderr."""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import torch  # noqa: E402

device, what, size, networks = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
small, on_gpu = size == "smoke", sys.argv[1] != "cpu"
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.benchmark = True


def now():
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def line(kind, name, value):
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0
    print("%s\t%s\t%.4g\t%.0f" % (kind, name, value, peak), flush=True)


def pixels(name):
    return 299 if name == "inception_v3" else 224


def rate(name, layout):
    from vision import thesis_network
    batch, warm, steps = (2, 1, 1) if small else (32, 10, 30)
    net = thesis_network(name).to(device).to(memory_format=layout).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    x = torch.rand(batch, 3, pixels(name), pixels(name), device=device).contiguous(memory_format=layout)
    y = torch.arange(batch, device=device) % 3
    cross = torch.nn.functional.cross_entropy

    def step():
        out = net(x)
        loss = cross(out[0], y) + 0.4 * cross(out[1], y) if isinstance(out, tuple) else cross(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for _ in range(warm):
        step()
    began = now()
    for _ in range(steps):
        step()
    return batch * steps / (now() - began)


def train(name):
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    line("train", name, max(rate(name, layout) for layout in (torch.contiguous_format, torch.channels_last)))


def gradcam(net, x):
    from pytorch_grad_cam import GradCAM
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    with GradCAM(model=net, target_layers=[layers[-1]]) as cam:
        cam(input_tensor=x[:2 if small else 8], targets=None)
    return 2 if small else 8


def lime(net, x):
    import numpy as np
    from lime.lime_image import LimeImageExplainer

    def answers(images):
        batch = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2).float().to(device)
        with torch.no_grad():
            return torch.softmax(net(batch), 1).cpu().numpy()
    image = x[0].permute(1, 2, 0).cpu().double().numpy()
    LimeImageExplainer(random_state=0).explain_instance(image, answers, top_labels=1, batch_size=32,
                                                        num_samples=20 if small else 1000, progress_bar=False)
    return 1


def shap_partition(net, x):
    import shap

    def answers(images):
        with torch.no_grad():
            return net(torch.from_numpy(images).permute(0, 3, 1, 2).float().to(device)).cpu().numpy()
    image = x[:1].permute(0, 2, 3, 1).cpu().numpy()
    explainer = shap.Explainer(answers, shap.maskers.Image("blur(16,16)", image[0].shape))
    explainer(image, max_evals=20 if small else 500, batch_size=32, outputs=[0])
    return 1


def explain(name):
    from vision import thesis_network
    net = thesis_network(name).to(device).eval()
    x = torch.rand(8, 3, pixels(name), pixels(name), device=device)
    for method in (gradcam, lime, shap_partition):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            best = float("inf")
            for _ in range(1 if small else 2):
                began = now()
                n = method(net, x)
                best = min(best, (now() - began) / n)
            line("explain", method.__name__, best)
        except ImportError as problem:
            print("work.py: no peer of %s (%s)" % (method.__name__, problem), file=sys.stderr)


try:
    import vision  # noqa: F401
except ImportError as absent:
    sys.exit("work.py: no torchvision here (%s)" % absent)
for network in networks:
    {"train": train, "explain": explain}[what](network)
