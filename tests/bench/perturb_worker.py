"""The other side of the bench of perturbing methods: shap, the thesis' way. See perturb_worker.lua."""
import gc
import sys
import time
import warnings
from pathlib import Path

reference = Path(__file__).parent.parent / "reference"
sys.path.insert(0, str(reference))
import torch  # noqa: E402
from measure import memory_mark, serve  # noqa: E402
from vision import thesis_network, torchvision  # noqa: E402

sys.path.remove(str(reference))
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

try:
    import shap
except ImportError:
    shap = None
warnings.simplefilter("ignore")

nn = torch.nn
picture = sys.argv[1]
model = x = background = layer = flops = None


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def gemm():
    p, q = torch.rand(2048, 2048), torch.rand(2048, 2048)
    torch.mm(p, q)
    return 2 * 2048 ** 3 / timed(lambda: torch.mm(p, q)) / 1e9


def count_flops():
    total, hooks = [0], []

    def hook(layer, _, out):
        per = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        total[0] += 2 * per * out.numel()
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            hooks.append(m.register_forward_hook(hook))
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    return total[0]


def load(name):
    global model, x, background, layer, flops
    torch.manual_seed(1)
    model = thesis_network(name).eval()
    size = 299 if name == "inception_v3" else 224
    t = torchvision.transforms
    x = t.Compose([t.Resize(size), t.CenterCrop(size), t.ToTensor()])(Image.open(picture).convert("RGB"))[None]
    background = torch.rand(32, 3, size, size)
    layer = model.layer4[-1] if name == "resnet50" else model.features[-1]
    flops = count_flops()
    return memory_mark()


def forward():
    """Seconds for one image, at the batch that is fastest."""
    best = 1e9
    with torch.no_grad():
        for n in (1, 4, 8, 16, 32):
            batch = x.expand(n, -1, -1, -1).contiguous()
            for _ in range(3 if n < 16 else 2):
                best = min(best, timed(lambda: model(batch).sum().item()) / n)
    return best


def logits(images):
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()).numpy()


def lime(n):
    from lime import lime_image
    image = x[0].permute(1, 2, 0).numpy().astype(np.float64)

    def probabilities(images):
        e = np.exp(logits(images))
        return e / e.sum(1, keepdims=True)

    def run():
        explainer = lime_image.LimeImageExplainer(random_state=1)
        explainer.explain_instance(image, probabilities, top_labels=3, hide_color=None, num_samples=int(n))
    return timed(run)


def segmented(n, name, **options):
    from skimage import segmentation
    image = x[0].permute(1, 2, 0).numpy().astype(np.float64)
    return timed(lambda: [getattr(segmentation, name)(image, **options) for _ in range(int(n))])


def quickshift(n):
    return segmented(n, "quickshift", kernel_size=4, max_dist=200, ratio=0.2)


def slic(n):
    return segmented(n, "slic", n_segments=10)


def partition(n):
    image = x[0].permute(1, 2, 0).numpy()

    def run():
        explainer = shap.Explainer(logits, shap.maskers.Image("blur(128,128)", image.shape))
        explainer(image[None], max_evals=int(n), batch_size=32, outputs=shap.Explanation.argsort.flip[:3], silent=True)
    return timed(run)


def kernel(n):
    from skimage.segmentation import slic
    image = x[0].permute(1, 2, 0).numpy()

    def run():
        labels = slic(image, n_segments=10, compactness=10, sigma=0, start_label=0)
        count = labels.max() + 1

        def f(z):
            return logits(np.where(z[:, labels][..., None] > 0, image, np.float32(1)))
        explainer = shap.KernelExplainer(f, np.zeros((1, count)))
        explainer.shap_values(np.ones((1, count)), nsamples=int(n), silent=True)
    return timed(run)


def gradient(n):
    def run():
        explainer = shap.GradientExplainer((model, layer), background)
        explainer.shap_values(x, nsamples=int(n), ranked_outputs=3, rseed=1)
    return timed(run)


def gradient_input(n):
    def run():
        explainer = shap.GradientExplainer(model, background)
        explainer.shap_values(x, nsamples=int(n), ranked_outputs=3, rseed=1)
    return timed(run)


def drop():
    global model, x, background, layer
    model = x = background = layer = None
    gc.collect()
    return 0


serve(
    hello=lambda: f"{torch.__version__} shap {shap.__version__}" if shap else "",
    gemm=gemm,
    load=load,
    forward=forward,
    flops=lambda: flops,
    lime=lime,
    lime_balanced=lime,
    quickshift=quickshift,
    slic=slic,
    partition=partition,
    kernel=kernel,
    gradient=gradient,
    gradient_input=gradient_input,
    drop=drop,
)
