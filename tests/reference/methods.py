"""Maps of a small network by the packages that researchers use (environment b), in float64, kept as float32:
zennit 0.5.1 (LRP), captum 0.9, pytorch-grad-cam 1.5.7, shap 0.51.

    pip install --no-deps zennit==0.5.1; pip install numba slicer     # besides environment b; numba, slicer for shap
    python methods.py tests/reference/methods [group ...]              # tests/tinymethods.lua has the same network
"""

import sys
from pathlib import Path

import numpy as np
import torch

import vision  # noqa: F401: torchvision beside a torch that it was not built for

nn = torch.nn
torch.set_num_threads(1)


class Mixed(nn.Module):
    """Convolutions with batch norms behind and before them, max and mean pooling, a residual sum, a concatenation."""

    def __init__(self):
        super().__init__()
        self.apart = False
        from zennit.layer import Sum
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(6, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.conv3, self.bn3, self.sum, self.relu3 = nn.Conv2d(6, 6, 3, 1, 1), nn.BatchNorm2d(6), Sum(), nn.ReLU()
        self.bn4, self.relu4, self.conv4 = nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
        self.pool2 = nn.AvgPool2d(2)
        self.conv5, self.relu5 = nn.Conv2d(10, 8, 3, 1, 1), nn.ReLU()
        self.pool, self.fc1, self.relu6 = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 7), nn.ReLU()
        self.fc2 = nn.Linear(7, 4)
        state = self.double().state_dict()
        for k, name in enumerate(n for n in state if not n.endswith("num_batches_tracked")):
            p = state[name]
            v = np.sin(np.arange(p.numel()) * (0.7 + 0.3 * k) + k).reshape(p.shape) * 0.6
            if name.endswith("running_var") or name.startswith("bn") and name.endswith("weight"):
                v = v * v + 0.5
            p.copy_(torch.from_numpy(v))
        self.eval()

    def forward(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.pool1(x + 0 if self.apart else x)
        y = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.sum(torch.stack([self.bn3(self.conv3(y)), x], -1)))
        x = torch.cat([x, self.conv4(self.relu4(self.bn4(x)))], 1)
        x = self.relu5(self.conv5(self.pool2(x)))
        return self.fc2(self.relu6(self.fc1(self.pool(x).flatten(1))))


def images():
    """2 x 3 x 16 x 24, different in each quadrant and channel."""
    n = np.arange(2 * 3 * 16 * 24, dtype=np.float64)
    x = (0.5 + 0.5 * np.sin(n * 0.113) * np.cos(n * 0.0031)).reshape(2, 3, 16, 24)
    x[0, 0, :7, :11] *= 0.2
    x[0, 2, 9:, 11:] = 1
    x[1, 1, :, 15:] = 0
    return torch.from_numpy(x)


def background():
    """5 images to begin from."""
    n = np.arange(5 * 3 * 16 * 24, dtype=np.float64)
    return torch.from_numpy((0.5 + 0.5 * np.sin(n * 0.37) * np.cos(n * 0.011)).reshape(5, 3, 16, 24))


def labels():
    """Six regions: 2 x 3 rectangles, as regions = { "grid", rows = 2, columns = 3 }."""
    rows, columns = np.arange(16) * 2 // 16, np.arange(24) * 3 // 24
    return torch.from_numpy(rows[:, None] * 3 + columns[None, :])


def each(f):
    """f(net, x (1, 3, H, W), predicted class) of both images: (2, h, w)"""
    rows = []
    for one in images():
        net, x = Mixed(), one[None].clone()
        rows.append(np.asarray(f(net, x, int(net(x).argmax()))))
    return np.stack(rows)


# ---- LRP by zennit ---------------------------------------------------------------------------------------------------

def lrp(make):
    from zennit.attribution import Gradient
    from zennit.canonizers import NamedMergeBatchNorm
    merge = NamedMergeBatchNorm([(("conv1",), "bn1"), (("conv2",), "bn2"), (("conv3",), "bn3")])

    def one(net, x, target):
        for bn in (net.bn1, net.bn2, net.bn3):  # zennit's merged norms still divide by the root of 1 + eps
            bn.eps, bn.running_var = 0.0, bn.running_var + bn.eps
        start = torch.zeros(1, 4).double()
        start[0, target] = net(x)[0, target].detach()
        with Gradient(model=net, composite=make([merge])) as attributor:
            _, relevance = attributor(x.requires_grad_(True), start)
        return relevance.detach().sum(1)[0].numpy()
    return each(one)


def lrp_all():
    from zennit import composites as c
    low, high = torch.zeros(1, 3, 1, 1).double(), torch.ones(1, 3, 1, 1).double()
    return {
        "lrp.epsilon_plus": lrp(lambda m: c.EpsilonPlus(canonizers=m)),
        "lrp.epsilon_gamma_box": lrp(lambda m: c.EpsilonGammaBox(low=low, high=high, canonizers=m)),
        "lrp.epsilon_alpha_beta": lrp(lambda m: c.EpsilonAlpha2Beta1(canonizers=m)),
        "lrp.epsilon_plus_flat": lrp(lambda m: c.EpsilonPlusFlat(canonizers=m)),
        "lrp.epsilon_alpha_beta_flat": lrp(lambda m: c.EpsilonAlpha2Beta1Flat(canonizers=m)),
        "lrp.epsilon": lrp(lambda m: c.LayerMapComposite(c.layer_map_base() + [
            (c.Convolution, c.Epsilon()), (torch.nn.Linear, c.Epsilon())], canonizers=m)),
    }


# ---- by differences, captum ------------------------------------------------------------------------------------------

def of_map(attribution):
    return attribution.detach().sum(1)[0].numpy()


def gradient_shap(net, x, target):
    """Its draws by formula: sample k begins from image (3 k + 1) % 5, at (0.13 + 0.618 k) % 1; no noise."""
    from captum.attr import GradientShap
    places = (0.13 + 0.618 * np.arange(6)) % 1
    choice, uniform = np.random.choice, np.random.uniform
    np.random.choice = lambda a, size, **k: (3 * np.arange(size) + 1) % 5
    np.random.uniform = lambda low, high, size: places[:size]
    try:
        return of_map(GradientShap(net).attribute(x, background(), n_samples=6, stdevs=0.0, target=target))
    finally:
        np.random.choice, np.random.uniform = choice, uniform


def deeplift(net, x, target):
    from captum.attr import DeepLift
    return of_map(DeepLift(net).attribute(x, torch.zeros_like(x), target=target))


def deeplift_shap(net, x, target):
    from captum.attr import DeepLiftShap
    return of_map(DeepLiftShap(net).attribute(x, background(), target=target))


def apart(f):
    """captum's hooks of a max pool that reads a rectifier's very tensor come too late: its rule is lost there."""
    def one(net, x, target):
        net.apart = True
        return f(net, x, target)
    return one


def differences():
    from captum.attr import Deconvolution
    return {
        "deeplift": each(apart(deeplift)), "deeplift.compat": each(deeplift),
        "deeplift_shap": each(apart(deeplift_shap)), "deeplift_shap.compat": each(deeplift_shap),
        "gradient_shap": each(gradient_shap),
        "deconvolution": each(lambda net, x, t: of_map(Deconvolution(net).attribute(x, target=t))),
    }


# ---- regions, captum and shap ----------------------------------------------------------------------------------------

def orders(n, count=6):
    """Permutation k of the regions, by formula."""
    return [[((5 if k % 2 else 1) * i + k) % count for i in range(count)] for k in range(n)]


def feature_ablation(net, x, target):
    from captum.attr import FeatureAblation
    mask = labels()[None, None]
    return of_map(FeatureAblation(net).attribute(x, baselines=0.0, target=target, feature_mask=mask) / 3)


def shapley_sampling(net, x, target):
    from captum.attr import ShapleyValueSampling
    method = ShapleyValueSampling(net)
    method.permutation_generator = lambda count, n: iter(orders(n))
    return of_map(method.attribute(x, 0.0, target=target, feature_mask=labels()[None, None], n_samples=4) / 3)


def of_shap(make):
    """A shap explainer of a function of six switches, painted on the regions."""
    def one(net, x, target):
        def f(on):
            keep = torch.from_numpy(np.asarray(on, dtype=np.float64))[:, labels().flatten()].view(-1, 1, 16, 24)
            return net(x * keep)[:, target].detach().numpy()
        values = make(f)(np.ones((1, 6))).values[0]
        return np.asarray(values)[labels().numpy()]
    return each(one)


def permutation(f):
    import shap
    explainer = shap.explainers.Permutation(f, np.zeros((1, 6)))
    queue = orders(4)

    def shuffle(inds):
        inds[:] = queue.pop(0)

    def explain(x):
        own, np.random.shuffle = np.random.shuffle, shuffle
        try:
            return explainer(x, max_evals=4 * 13, silent=True)
        finally:
            np.random.shuffle = own
    return explain


def exact(f):
    import shap
    return lambda x: shap.explainers.Exact(f, np.zeros((1, 6)))(x, silent=True)


def occlusion(window, stride):
    def one(net, x, target):
        from captum.attr import Occlusion
        return of_map(Occlusion(net).attribute(x, (3, window, window), (3, stride, stride), 0.0, target=target) / 3)
    return each(one)


def regions():
    return {
        "feature_ablation": each(feature_ablation), "shapley_sampling": each(shapley_sampling),
        "occlusion": occlusion(6, 4), "occlusion.odd": occlusion(7, 5),
    }


def games():
    return {"shap_permutation": of_shap(permutation), "shap_exact": of_shap(exact)}


# ---- noise, captum ---------------------------------------------------------------------------------------------------

def tunnel(kind):
    """Noise by formula, as attributions.py."""
    k = np.arange(5 * 3 * 16 * 24, dtype=np.float64)
    noise = 2 ** 0.5 * np.sin(k * 0.7 + 0.3 * np.sin(k * 0.013)) * np.cos(k * 1.3)
    noise = torch.from_numpy(noise.reshape(5, 3, 16, 24))

    def one(net, x, target):
        from captum.attr import NoiseTunnel, Saliency
        own, torch.normal = torch.normal, lambda mean, std: noise * 0.15
        try:
            return of_map(NoiseTunnel(Saliency(net)).attribute(
                x, nt_type=kind, nt_samples=5, stdevs=0.15, target=target, abs=False))
        finally:
            torch.normal = own
    return each(one)


def noise():
    return {"smoothgrad_squared": tunnel("smoothgrad_sq"), "vargrad": tunnel("vargrad")}


# ---- at a layer, pytorch-grad-cam and captum ------------------------------------------------------------------------

def cam(make, softmax=False, layers=("relu5",)):
    """What a CAM computes before it is cut, scaled and resized; of several layers its product."""
    def one(net, x, target):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
        method = make(net, [getattr(net, name) for name in layers])
        targets = [(ClassifierOutputSoftmaxTarget if softmax else ClassifierOutputTarget)(target)]
        if len(layers) > 1:
            return method(input_tensor=x, targets=targets)[0]
        kept, base = [], getattr(method, "base_cam", method)
        own = base.get_cam_image
        base.get_cam_image = lambda *a, **k: kept.append(own(*a, **k)) or kept[-1]
        method(input_tensor=x, targets=None if base is not method else targets)
        return kept[0][0]
    return each(one)


def path(make):
    return each(lambda net, x, t: of_map(make(net).attribute(x, 0.0, target=t, n_steps=8)))


def dff(net, x, target):
    """Three concepts: (3 + 1, 4, 6), the places and the concepts (8 x 3 numbers); the draws are by formula."""
    from pytorch_grad_cam.feature_factorization.deep_feature_factorization import dff as factorize
    kept = []
    net.relu5.register_forward_hook(lambda module, given, made: kept.append(made.detach().numpy()))
    net(x)
    own, count = np.random.RandomState, [0]

    class Drawn(own):
        def standard_normal(self, size=None):
            k = count[0] + np.arange(int(np.prod(size)))
            count[0] += len(k)
            return (np.sin(k * 1.7 + 0.4) * 1.3 + 0.1).reshape(size)
    np.random.RandomState = Drawn
    try:
        concepts, places = factorize(kept[0], n_components=3)
    finally:
        np.random.RandomState = own
    return np.concatenate([places[0], concepts.reshape(1, 4, 6)])


def cams():
    from captum.attr import InternalInfluence, LayerConductance
    from pytorch_grad_cam import FEM, FinerCAM, KPCA_CAM, ShapleyCAM
    from pytorch_grad_cam.refine_cam import RefineCAM
    from pytorch_grad_cam.seg_eigen_cam import SegEigenCAM
    return {
        "finercam": cam(lambda net, layers: FinerCAM(net, layers)),
        "shapleycam": cam(lambda net, layers: ShapleyCAM(net, layers), softmax=True),
        "fem": cam(lambda net, layers: FEM(net, layers, k=1)),
        "kpcacam": cam(lambda net, layers: KPCA_CAM(net, layers)),
        "kpcacam.rbf": cam(lambda net, layers: KPCA_CAM(net, layers, kernel="rbf", gamma=0.5)),
        "segeigencam": cam(lambda net, layers: SegEigenCAM(net, layers)),
        "refinecam": cam(lambda net, layers: RefineCAM(net, layers), layers=("relu3", "relu5")),
        "dff": each(dff),
        "layer_conductance": path(lambda net: LayerConductance(net, net.relu5)),
        "internal_influence": path(lambda net: InternalInfluence(net, net.relu3)),
    }


def sess():
    from pytorch_grad_cam.sess import SESS

    def one(net, x, target):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
        method = SESS(net, [net.relu5], num_scales=3, pre_filter_ratio=0.2)
        return method(x, [ClassifierOutputTarget(target)])[0]
    return {"sess": each(one)}


GROUPS = {
    "sess": sess,
    "lrp": lrp_all, "differences": differences, "regions": regions, "games": games, "noise": noise, "cams": cams,
}


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for group in sys.argv[2:] or GROUPS:
        for name, maps in GROUPS[group]().items():
            np.save(out / f"{name}.npy", maps.astype(np.float32))
            print(f"{name:32} {maps.shape} {np.abs(maps).max():.4g}", flush=True)
