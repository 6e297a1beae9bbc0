"""shap 0.51 (environment b): what the SHAP methods are compared with.

python shap_values.py --tiny OUT        the small dump that is committed (tests/reference/shap.pt): functions that the
tests
                                        evaluate again (the tiny network of gradcam.py; a formula of the mask)
python shap_values.py OUT LIME [network ...]   the networks and images that perturb_lime.py left in LIME: what
parity_shap.lua compares
"""

import hashlib
import sys
from pathlib import Path

sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).parent.resolve()] + [
    str(Path(__file__).parent)
]
import numpy as np  # noqa: E402
import shap  # noqa: E402
import torch  # noqa: E402


class Tiny(torch.nn.Module):
    """conv - relu - conv - relu - mean - linear; weights by formula (as in gradcam.py and tests/tinyexplain.lua)."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, 2, 1)
        self.conv2 = torch.nn.Conv2d(4, 6, 3, 2, 1)
        self.fc = torch.nn.Linear(6, 3)
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(torch.from_numpy(np.sin(np.arange(p.numel()) * (0.7 + 0.3 * k) + k)).reshape(p.shape) * 0.5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3)))


def tiny_images():
    n = np.arange(2 * 3 * 21 * 32, dtype=np.float64)
    return (0.5 + 0.5 * np.sin(n * 0.013) * np.cos(n * 0.0007)).reshape(2, 3, 21, 32)


# ---- Partition ----

def partition(model, image, mask, evals, batch, context, ranked, out, name):
    """image (H, W, 3). Leaves values, base, and of every evaluation the share shown and the outputs, in order."""
    masker = shap.maskers.Image(mask, image.shape)
    seen = []

    def f(x):
        y = model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).detach().numpy()
        seen.extend(y)
        return y

    order = shap.Explanation.argsort.flip[:ranked]
    explainer = shap.PartitionExplainer(f, masker)
    np.random.seed(0)
    e = explainer(image[None], max_evals=evals, batch_size=batch, fixed_context=context, outputs=order, silent=True)
    out[name + ".values"] = torch.from_numpy(e.values[0].copy())  # (H, W, C, ranked)
    out[name + ".base"] = torch.from_numpy(np.atleast_1d(np.array(e.base_values).reshape(-1)).copy())
    out[name + ".outputs"] = torch.from_numpy(np.array(seen))


class Regions:
    """A masker of K regions with a tree of one's own."""

    def __init__(self, labels, image, background, clustering):
        self.labels, self.image, self.background, self.clustering = labels, image, background, clustering
        self.shape = (None, int(labels.max()) + 1)
        self.immutable_outputs = False

    def __call__(self, mask, x):
        keep = mask[self.labels][..., None]
        return (np.where(keep, self.image, self.background)[None],)


def partition_regions(model, image, labels, clustering, evals, batch, out, name):
    background = np.full_like(image, 0.25)
    masker = Regions(labels, image, background, clustering)
    f = lambda x: model(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).detach().numpy()  # noqa: E731
    explainer = shap.PartitionExplainer(f, masker)
    np.random.seed(0)
    e = explainer(np.zeros((1, int(labels.max()) + 1)), max_evals=evals, batch_size=batch, silent=True)
    out[name + ".values"] = torch.from_numpy(e.values[0].copy())
    out[name + ".labels"] = torch.from_numpy(labels.astype(np.int64))


def partitions(out):
    model = Tiny().double().eval()
    image = tiny_images()[0].transpose(1, 2, 0).copy()
    partition(model, image, "blur(6,5)", 300, 10, None, 3, out, "partition.blur")
    partition(model, image, np.full(image.shape, 0.3), 101, 7, None, 1, out, "partition.odd")
    partition(model, image, "blur(6,5)", 200, 10, 0, 2, out, "partition.context0")
    partition(model, image, "blur(6,5)", 200, 32, 1, 2, out, "partition.context1")
    partition(model, image, np.full(image.shape, 0.0), 3, 32, None, 3, out, "partition.least")
    small = image[3:8, 5:9]
    partition(model, small, np.full(small.shape, 0.5), 1500, 10, None, 3, out, "partition.pixels")
    labels = (np.arange(21)[:, None] // 11) * 3 + np.arange(32)[None] // 11
    tree = np.array([[0, 3, 0, 2], [1, 2, 0, 2], [6, 4, 0, 3], [7, 5, 0, 3], [8, 9, 0, 6]], dtype=np.float64)
    partition_regions(model, image, labels, tree, 40, 4, out, "partition.regions")


# ---- Kernel ----

def of_mask(z, outputs):
    """(n, M) 0 or 1 -> (n, outputs): a formula with interactions."""
    m = z.shape[1]
    i = np.arange(m)
    y = []
    for d in range(outputs):
        a, b = np.sin(0.9 * i + d), np.cos(1.7 * i + 2 * d)
        y.append(np.sin(z @ a) + 0.3 * (z @ b) + 0.2 * (z[:, 0] * z[:, 1]) - 0.4 * z[:, m // 2] * z[:, m - 1])
    return np.stack(y, 1)


def kernel(m, samples, l1, outputs, out, name):
    explainer = shap.KernelExplainer(lambda z: of_mask(z, outputs), np.zeros((1, m)))
    np.random.seed(42)
    values = explainer.shap_values(np.ones((1, m)), nsamples=samples, l1_reg=l1, silent=True)
    out[name + ".values"] = torch.from_numpy(np.asarray(values)[0].copy())  # (M, outputs)
    out[name + ".masks"] = torch.from_numpy(explainer.maskMatrix.astype(np.uint8))
    out[name + ".weights"] = torch.from_numpy(explainer.kernelWeights.copy())


class Unscaled:
    def __init__(self, **_):
        pass

    def fit(self, x, y=None):
        return self

    def transform(self, x):
        return x

    def fit_transform(self, x, y=None):
        return self.fit(x).transform(x)


class Unit(Unscaled):
    """scikit-learn's normalize = True before 1.2: centred columns of length 1."""

    def fit(self, x, y=None):
        self.length = np.sqrt(((x - x.mean(0)) ** 2).sum(0))
        self.length[self.length == 0] = 1
        return self

    def transform(self, x):
        return x / self.length


def kernels(out):
    kernel(4, 1000, "num_features(10)", 3, out, "kernel.all")
    kernel(9, 70, "num_features(10)", 3, out, "kernel.slic")
    kernel(20, 70, "num_features(10)", 3, out, "kernel.thesis")
    kernel(20, 70, "num_features(4)", 2, out, "kernel.four")
    kernel(13, 100, "aic", 2, out, "kernel.aic")
    kernel(13, 100, "bic", 2, out, "kernel.bic")
    kernel(11, 300, False, 2, out, "kernel.unselected")
    kernel(12, 120, 0.01, 2, out, "kernel.lasso")
    kernel(16, 2000, "auto", 1, out, "kernel.auto")
    from shap.explainers import _kernel
    own = _kernel.StandardScaler
    for name, scaler in (("none", Unscaled), ("unit", Unit)):
        _kernel.StandardScaler = scaler
        kernel(20, 70, "auto", 3, out, "kernel.era_" + name)
    _kernel.StandardScaler = own


# ---- Gradient ----

def gradients(out):
    model = Tiny().double().eval()  # weights rounded to float32, as the tests have them
    torch.set_default_dtype(torch.float64)
    x = torch.from_numpy(tiny_images())
    n = np.arange(5 * 3 * 21 * 32, dtype=np.float64)
    background = torch.from_numpy((0.5 + 0.5 * np.cos(n * 0.0171)).reshape(5, 3, 21, 32))
    for name, what in (("input", model), ("layer", (model, model.conv2))):
        explainer = shap.GradientExplainer(what, background, batch_size=16)
        for i in range(2):  # an image at a time: the draws begin anew
            values, variances, ranks = explainer.shap_values(
                x[i : i + 1], nsamples=60, ranked_outputs=2, rseed=7 + i, return_variances=True
            )
            out[f"gradient.{name}{i}.values"] = torch.from_numpy(np.asarray(values)[0].astype(np.float64))
            out[f"gradient.{name}{i}.variances"] = torch.from_numpy(np.stack([v[0] for v in variances], -1))
            out[f"gradient.{name}{i}.ranks"] = torch.as_tensor(ranks[0]).to(torch.int64)


def tiny(path):
    out = {}
    partitions(out)
    kernels(out)
    gradients(out)
    # sums over colours are compared, so that the file stays small
    for name in list(out):
        if (
            name.startswith("partition.")
            and name.endswith(".values")
            and out[name].dim() == 4
            and out[name].shape[0] > 5
        ):
            out[name] = out[name].sum(2).contiguous()
        if name.startswith("gradient.input"):
            out[name] = out[name].sum(0).contiguous() if out[name].dim() == 4 else out[name]
    torch.save({k: v.clone() for k, v in out.items()}, path / "shap.pt")
    for k, v in out.items():
        print(k, tuple(v.shape))


# ---- real networks ----

LAYERS = {  # the thesis' layer; shap explains its input, which is this node's output
    "squeezenet1_0": ("features.12", "features.11"),
    "mobilenet_v2": ("features.18", "features.17"),
    "efficientnet_b0": ("features.8", "features.7"),
    "densenet121": ("features.norm5", "features.denseblock4"),
    "resnet50": ("layer4.2", "layer4.1"),
    "inception_v3": ("Mixed_7c.branch_pool", "Mixed_7c.avg_pool2d"),
    "vgg19": ("features.36", "features.35"),
}
EVALS = {"vgg19": 100, "resnet50": 150, "inception_v3": 150, "densenet121": 150}


def layer_of(model, name):
    for part in name.split("."):
        model = model[int(part)] if part.isdigit() else getattr(model, part)
    return model


def digest(mask):
    return hashlib.sha256(np.ascontiguousarray(mask.astype(np.uint8)).tobytes()).hexdigest()


def network(folder, name):
    import vision
    extra = {"init_weights": False} if name == "inception_v3" else {}
    model = getattr(vision.torchvision.models, name)(weights=None, num_classes=3, **extra)
    model.load_state_dict(torch.load(folder / "weights.pt"))
    for m in model.modules():  # out of place: shap's hooks keep the layer's input, which a rectifier would overwrite
        if hasattr(m, "inplace"):
            m.inplace = False
    return model.eval()


def real_partition(model, x, evals, out, name):
    """Masks of the hierarchy are recorded with what the network said of them, in order."""
    image = x[0].transpose(1, 2, 0).copy()
    masker = shap.maskers.Image("blur(128,128)", image.shape)
    seen, masks = [], []

    def f(batch):
        with torch.no_grad():
            y = model(torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).float()).numpy()
        seen.extend(y.astype(np.float64))
        return y

    own = shap.maskers.Image.__call__

    def noting(self, mask, x):
        masks.append(digest(mask.reshape(image.shape).transpose(2, 0, 1)))
        return own(self, mask, x)
    shap.maskers.Image.__call__ = noting
    np.random.seed(0)
    e = shap.PartitionExplainer(f, masker)(
        image[None], max_evals=evals, batch_size=32, outputs=shap.Explanation.argsort.flip[:3], silent=True
    )
    shap.maskers.Image.__call__ = own
    out[name + ".values"] = torch.from_numpy(e.values[0].sum(2))
    out[name + ".outputs"] = torch.from_numpy(np.array(seen))
    out[name + ".background"] = torch.from_numpy(blurred(image).transpose(2, 0, 1).copy())
    return masks


def blurred(image):
    import cv2
    return cv2.blur(image, (128, 128))


def real_kernel(model, x, samples, l1, seed, out, name):
    from skimage.segmentation import slic
    image = x[0].transpose(1, 2, 0).copy()
    labels = slic(image.astype(np.float64), n_segments=10, start_label=0)
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    count = int(labels.max()) + 1

    def f(z):
        pictures = np.where(z[:, labels][..., None] > 0.5, image, np.float32(1))
        with torch.no_grad():
            return (
                model(torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float())
                .numpy()
                .astype(np.float64)
            )
    explainer = shap.KernelExplainer(f, np.zeros((1, count)))
    np.random.seed(seed)
    out[name + ".values"] = torch.from_numpy(
        np.asarray(explainer.shap_values(np.ones((1, count)), nsamples=samples, l1_reg=l1, silent=True))[0].copy()
    )
    out[name + ".masks"] = torch.from_numpy(explainer.maskMatrix.astype(np.uint8))
    out[name + ".outputs"] = torch.from_numpy(explainer.y.copy())
    out[name + ".ends"] = torch.from_numpy(np.stack([explainer.fnull, explainer.fx]))
    out[name + ".labels"] = torch.from_numpy(labels.astype(np.int64))


def real_gradient(what, x, background, samples, seed, out, name):
    for bits, dtype in ((64, torch.float64), (32, torch.float32)):
        torch.set_default_dtype(dtype)
        model = what[0] if isinstance(what, tuple) else what
        model.to(dtype)
        explainer = shap.GradientExplainer(what, torch.from_numpy(background).to(dtype), batch_size=10)
        values, ranks = explainer.shap_values(
            torch.from_numpy(x).to(dtype), nsamples=samples, ranked_outputs=3, rseed=seed
        )
        out[f"{name}.values{bits}"] = torch.from_numpy(np.asarray(values)[0].astype(np.float64).sum(0))
        out[f"{name}.ranks"] = torch.as_tensor(ranks[0]).to(torch.int64)
    torch.set_default_dtype(torch.float32)
    model.float()


def real(out_dir, lime_dir, names):
    import warnings
    warnings.simplefilter("ignore")
    for name in names or LAYERS:
        source, folder = lime_dir / name, out_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        model, out, masks = network(source, name), {}, []
        xs = [
            np.load(source / f"x{i}.npy") for i in range(5)
        ]  # three X-rays, the made picture, the made picture not square
        for i, x in enumerate(xs):
            if i in (0, 1, 3, 4):
                masks.append((i, real_partition(model, x, EVALS.get(name, 300), out, f"partition{i}")))
            real_kernel(model, x, 70, "num_features(10)", 42 + i, out, f"kernel{i}")
            real_kernel(model, x, 40, "aic", 42 + i, out, f"aic{i}")
        background = np.concatenate([xs[1], xs[2], xs[3]])
        for i in (0, 3):
            real_gradient((model, layer_of(model, LAYERS[name][0])), xs[i], background, 12, 7 + i, out, f"layer{i}")
        real_gradient(model, xs[0], background, 6, 7, out, "input0")
        torch.save({k: v.contiguous() for k, v in out.items()}, folder / "shap.pt")
        lines = [
            f"  [{i}] = {{ {', '.join(repr(m).replace(chr(39), chr(34)) for m in list_)} }},\n" for i, list_ in masks
        ]
        (folder / "masks.lua").write_text(
            f'return {{ layer = "{LAYERS[name][1]}", evals = {EVALS.get(name, 300)},\n' + "".join(lines) + "}\n"
        )
        print(name, "done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--tiny":
        tiny(Path(sys.argv[2]))
    else:
        real(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
