#!/usr/bin/python3
"""Networks exported by torch.export, and what PyTorch computes with them: what tests/exported_small.lua and
tests/parity_exported.lua are compared with.

    exported.py OUT NAME ...       networks of torchvision, timm, TorchXRayVision and MONAI, random weights (environment
    b)
    exported.py OUT --small        the small ones of the repository, tests/reference/exported/*.pt2 and *.pt
    exported.py open RUN NAME      loads what exported_train.lua trained back into the small module

Writes OUT/NAME.pt2 and OUT/NAME.pt: images, logits and all gradients of the sum of the squared logits' halves, in
float64 and, for the large ones, in float32.
"""

import io, json, os, sys, warnings, logging, zipfile

import torch
import torch.nn as nn
import torch.nn.functional as F
from vision import torchvision

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


# ---- the small ones ----

class Squeeze(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(n, 2, 1), nn.Conv2d(2, n, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2, self.se = nn.Conv2d(n, n, 3, padding=1, groups=2), nn.BatchNorm2d(n), Squeeze(n)

    def forward(self, x):
        y = self.se(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        y += x
        return self.relu(y)


class Convnet(nn.Module):
    """In-place rectifiers and sums, squeeze and excitation, dropout: the operators of ordinary convolutional
    networks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        )
        self.layer1 = nn.Sequential(Block(4), nn.MaxPool2d(2))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Hardswish(inplace=True), Block(6))
        self.avgpool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.25, inplace=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.drop(torch.flatten(self.avgpool(self.layer2(self.layer1(self.stem(x)))), 1)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim), Attention(dim, heads), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """A transformer with a class token and two registers, as DINOv2's with registers."""

    def __init__(self, dim=8, side=4, registers=2, depth=3, heads=2):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, stride=4)
        self.cls_token, self.reg_token = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(
            torch.randn(1, registers, dim)
        )
        self.pos_embed = nn.Parameter(torch.randn(1, side * side, dim) / 2)
        self.blocks, self.norm, self.head = (
            nn.Sequential(*[Layer(dim, heads) for _ in range(depth)]),
            nn.LayerNorm(dim),
            nn.Linear(dim, 3),
        )

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        n = x.shape[0]
        x = torch.cat([self.cls_token.expand(n, -1, -1), self.reg_token.expand(n, -1, -1), x], dim=1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class Odd(nn.Module):
    """What few networks do: writes into slices, sizes that are computed, constants, casts, lists with None."""

    def __init__(self):
        super().__init__()
        self.conv, self.bias = nn.Conv2d(3, 6, 4, stride=4), nn.Parameter(torch.randn(9))
        self.scale, self.fc = nn.Parameter(torch.randn(2, 1, 1)), nn.Linear(16, 4)
        self.register_buffer("order", torch.tensor([[3, 1], [0, 2]]))
        self.register_buffer("hidden", torch.linspace(0, 1, 16).view(4, 4), persistent=False)

    def forward(self, x):
        n = x.shape[0]
        x = self.conv(x)                                        # (N, 6, 4, 4)
        a, b, c = x.chunk(3, 1)
        d = a.clone()
        d[:, :, 1:3, ::2] += b[:, :, 1:3, ::2]                  # a slice of a copy
        d[:, 0].mul_(2.0).clamp_(-1.0, 1.0)                     # in place, through a view
        bias = self.bias.clone()
        bias[3:6].zero_()                                       # as Swin V2 does
        d = d + bias[:2].view(1, 2, 1, 1) + (c > 0).float() * self.scale + self.hidden
        steps = torch.arange(4, device=x.device, dtype=torch.float32) / 4
        d = d * torch.sin(steps)[:, None] + torch.zeros(n, 2, 1, 4).to(x.dtype)
        mask = torch.zeros(4, 4)
        for i, cut in enumerate((slice(0, 2), slice(2, 4))):
            mask[cut] = i                                       # as Swin's shifted windows
        d = d.masked_fill(mask == 1, 0.5)
        e = d.view(n * 2, 16)[:, self.order.view(-1)]           # a list with None
        f = self.scale.view(1, 2, 1).repeat(n, 1, 4) + e.view(n, 2, 4)
        g = torch.cat([f.to(x.dtype).flatten(1), e.reshape(n, -1) * 3], 1)
        return self.fc(F.pad(g, (0, 0)))


class Writes(nn.Module):
    """In-place operators whose other form has another name; types of results that are told."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x)                                        # (N, 4, 4, 4)
        low, high = x > -0.3, x < 0.4
        same = low
        low &= high
        low |= x > 0.6
        low ^= x > 0.8                                          # "same" is changed as well
        y = x.abs() + 1
        y **= 2
        y.pow_(x.detach().sigmoid())
        y = y * 1                                               # pow_ keeps what it gave for its gradient
        y.transpose_(2, 3)
        y[y > 2] = 0.5
        steps = torch.arange(4)
        steps <<= 1                                             # a constant that is written to
        counts = low.cumsum(1, dtype=torch.float32) + (high.sum((2, 3), keepdim=True, dtype=x.dtype) // 2)
        z = y * same + x * counts * steps.view(1, 4, 1, 1).to(x.dtype)
        return self.fc(torch.cat([z.mean((2, 3)), z.amax((2, 3))], 1))


def small():
    vit = torchvision.models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )
    swin = torchvision.models.SwinTransformer(
        patch_size=[2, 2], embed_dim=8, depths=[2], num_heads=[2], window_size=[4, 4], num_classes=3
    )
    return {
        "convnet": (Convnet(), 16),
        "vit": (vit, 16),
        "swin": (swin, 32),
        "tokens": (Tokens(), 16),
        "odd": (Odd(), 16),
        "writes": (Writes(), 16),
    }


# ---- the large ones ----

def large(name):
    """The network, the size of its images, their channels."""
    family, rest = name.split("_", 1)
    if family == "tv":
        if rest == "vit":
            return torchvision.models.VisionTransformer(224, 16, 4, 3, 192, 384), 224, 3
        extra = {"init_weights": False} if rest in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, rest)(weights=None, **extra), 299 if rest == "inception_v3" else 224, 3
    if family == "timm":
        import timm
        net = timm.create_model(rest, pretrained=False)
        return net, net.default_cfg["input_size"][-1], 3
    if family == "xrv":
        import torchxrayvision
        return torchxrayvision.models.DenseNet(weights=None), 224, 1
    import monai.networks.nets as nets
    made = {
        "densenet121": lambda: nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=3),
        "efficientnet": lambda: nets.EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=3
        ),
        "vit": lambda: nets.ViT(
            in_channels=3,
            img_size=(224, 224),
            patch_size=(16, 16),
            classification=True,
            num_classes=3,
            spatial_dims=2,
            hidden_size=192,
            mlp_dim=384,
            num_heads=3,
            num_layers=2,
        ),
        "seresnet50": lambda: nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=3),
    }
    return made[rest](), 224, 3


def settle(net, size, channels, small_one):
    """Weights with which nothing is zero, and running statistics of some batches."""
    with torch.no_grad():
        for p in net.parameters():
            if p.abs().max() < 1e-3 or p.std() < 1e-6 and p.numel() > 1:
                p.add_(torch.randn_like(p) * 0.2)
        net.train()
        for _ in range(8 if small_one else 2):
            net(torch.rand(4, channels, size, size) * 2 - 1)
    return net.eval()


def first(out):
    return out[0] if isinstance(out, (tuple, list)) else out


def gradients(net, x):
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = first(net(x))
    (out * out).sum().div(2).backward()
    grads = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    return {"logits": out.detach().clone(), "x_grad": x.grad.clone(), "grads": grads}


# ---- explanations ----

TARGET = 1  # the class that is explained
# name -> (layer, how its value becomes (N, C, h, w): None, "nhwc", or the number of tokens before the places)
LAYERS = {
    "convnet": ("layer2.2", None),
    "vit": ("encoder.layers.encoder_layer_0", 1),
    "tokens": ("blocks.1", 3),
    "swin": ("features.1.0", "nhwc"),
    "tv_resnet18": ("layer4.1", None),
    "tv_mobilenet_v3_small": ("features.12", None),
    "tv_convnext_tiny": ("features.7.2", None),
    "tv_swin_t": ("features.7", "nhwc"),
    "tv_vit": ("encoder.layers.encoder_layer_2", 1),
    "timm_vit_tiny_patch16_224": ("blocks.10", 1),
    "timm_swin_tiny_patch4_window7_224": ("norm", "nhwc"),
    "timm_eva02_tiny_patch14_224": ("blocks.11", 1),
    "timm_resnet26": ("layer4.1", None),
    "xrv_densenet": ("features.norm5", None),
    "monai_densenet121": ("class_layers.relu", None),
    "monai_vit": ("blocks.0", 1),
}
ABLATED = {
    "convnet",
    "vit",
    "tokens",
    "tv_mobilenet_v3_small",
    "tv_vit",
    "timm_vit_tiny_patch16_224",
    "monai_vit",
}  # the others take too long
GLOBAL = {"vit", "tokens", "tv_vit", "timm_vit_tiny_patch16_224"}  # attention over all tokens, read at token 0


def reshaper(kind):
    if kind is None:
        return None
    if kind == "nhwc":
        return lambda v: v.permute(0, 3, 1, 2)

    def places(v):
        side = int((v.size(1) - kind) ** 0.5)
        return v[:, kind:].transpose(1, 2).reshape(v.size(0), v.size(2), side, side)
    return places


def cams(net, name, x):
    """pytorch-grad-cam's maps and captum's integrated gradients of class 1, (N, H, W)."""
    import pytorch_grad_cam as pgc
    from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from captum.attr import IntegratedGradients

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return first(self.net(x))
    model = One().eval()
    path, kind = LAYERS[name]
    layer = model.net.get_submodule(path)
    out = {}
    methods = {"gradcam": pgc.GradCAM, "layercam": pgc.LayerCAM, "eigencam": pgc.EigenCAM}
    if name in ABLATED:
        methods["ablationcam"] = pgc.AblationCAM
    for key, cls in methods.items():
        extra = {}
        if key == "ablationcam":
            extra["ablation_layer"] = AblationLayer() if kind is None else AblationLayerVit()
        with cls(model=model, target_layers=[layer], reshape_transform=reshaper(kind), **extra) as cam:
            if key == "ablationcam":
                cam.batch_size = 32
            out[key] = torch.from_numpy(cam(input_tensor=x.clone(), targets=[ClassifierOutputTarget(TARGET)] * len(x)))
    ig = IntegratedGradients(model).attribute(
        x, baselines=0.0, target=TARGET, n_steps=20, method="gausslegendre", internal_batch_size=8
    )
    out["integrated_gradients"] = ig.sum(1).detach()
    return out


def attentions(net, x):
    """The attention methods by their equations, on attention that is written out; read at token 0: (N, h, w)."""
    kept, fused = [], F.scaled_dot_product_attention

    def written_out(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        assert attn_mask is None and not is_causal
        a = torch.softmax(q @ k.transpose(-2, -1) * (scale or q.size(-1) ** -0.5), -1)
        kept.append(a)
        return a @ v
    F.scaled_dot_product_attention = written_out
    try:
        outs = []
        blocks = net.blocks if hasattr(net, "blocks") else net.encoder.layers
        hooks = [b.register_forward_hook(lambda m, i, o: outs.append(o)) for b in blocks]
        score = first(net(x.clone().requires_grad_()))[:, TARGET].sum()
        for h in hooks:
            h.remove()
        a, z = list(kept), list(outs)
        g = torch.autograd.grad(score, a, retain_graph=True)
        with_head = []
        for l, tokens in enumerate(z):  # the layer's tokens in the place of the last layer's
            hook = blocks[len(z) - 1].register_forward_hook(lambda m, i, o: tokens)
            with_head.append(torch.autograd.grad(first(net(x))[:, TARGET].sum(), a[l], retain_graph=True)[0])
            hook.remove()
    finally:
        F.scaled_dot_product_attention = fused
    t = a[0].size(-1)
    eye = torch.eye(t, dtype=x.dtype)
    rollout = gradient = generic = eye.expand(len(x), t, t)
    for w, dw in zip(a, g):
        m = 0.5 * w.mean(1) + 0.5 * eye
        rollout = m / m.sum(-1, keepdim=True) @ rollout
        m = 0.5 * F.relu((w * dw).mean(1)) + 0.5 * eye
        gradient = m / m.sum(-1, keepdim=True) @ gradient
        generic = generic + F.relu(w * dw).mean(1) @ generic
    legrad = torch.stack([F.relu(d).mean((1, 2)) for d in with_head]).mean(0)
    side = int(t ** 0.5)
    others = t - side * side
    rows = {
        "attention_rollout": rollout[:, 0],
        "gradient_attention_rollout": gradient[:, 0],
        "generic_attention": generic[:, 0],
        "legrad": legrad,
    }
    return {k: v[:, others:].reshape(len(x), side, side).detach() for k, v in rows.items()}


def strip(path):
    """The archive without sample inputs and traces of this machine."""
    with zipfile.ZipFile(path) as z:
        root = z.namelist()[0].split("/")[0]
        records = {n[len(root) + 1:]: z.read(n) for n in z.namelist()}
    writer = torch._C.PyTorchFileWriter(path)
    for name, data in records.items():
        if name.startswith(".data/") or name == "version" or name.startswith("data/sample_inputs/"):
            continue
        if name == "models/model.json":
            tree = json.loads(data)
            for node in tree["graph_module"]["graph"]["nodes"]:
                node["metadata"].pop("stack_trace", None)
                node["metadata"].pop("torch_fn", None)
            data = json.dumps(tree, separators=(",", ":")).encode()
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()


# ---- files that are refused, and files of other forms ----

class Plain(nn.Module):
    def __init__(self, change=None):
        super().__init__()
        self.conv, self.fc, self.change = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 3), change

    def forward(self, x, y=None):
        x = F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
        return self.change(self.fc(x), y) if self.change else self.fc(x)


class Alias(nn.Module):
    """Writes to what may be a view or a copy, and reads what it may be a view of."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        y = x.reshape(x.shape[0], 4, -1)
        y.mul_(2.0)
        return self.fc(x.mean((2, 3)) + y.mean(2))


class Double(nn.Module):
    """Weights and constants in float64, with digits that float32 has not."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 3)
        self.to(torch.float64)
        for p in self.parameters():
            p.data = torch.randn(p.shape, dtype=torch.float64)
        self.register_buffer("table", torch.rand(4, 1, 1, dtype=torch.float64), persistent=False)

    def forward(self, x):
        steps = torch.arange(4, dtype=torch.float64) / 3
        return self.fc((self.conv(x) * (self.table.sqrt() + steps.view(4, 1, 1))).mean((2, 3)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b, self.fc = (
            nn.Conv2d(3, 4, 4, stride=4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 3),
        )
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.fc(self.b(torch.relu(self.a(F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)))))


def export(net, path, args=None, dynamic=None, eval_mode=True):
    net = net.eval() if eval_mode else net.train()
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, args or (torch.zeros(2, 3, 16, 16),), dynamic_shapes=dynamic or ({0: batch},))
    torch.export.save(program, path)
    strip(path)


def records_of(path):
    with zipfile.ZipFile(path) as z:
        root = z.namelist()[0].split("/")[0]
        return {n[len(root) + 1:]: z.read(n) for n in z.namelist()}


def write_records(path, records):
    writer = torch._C.PyTorchFileWriter(path)
    for name, data in records.items():
        if name != "version" and not name.startswith(".data/"):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def saved(value):
    f = io.BytesIO()
    torch.save(value, f)
    return f.getvalue()


def others(out):
    torch.manual_seed(2)
    lib = torch.library.Library("mylib", "DEF")
    lib.define("twice(Tensor x) -> Tensor")
    lib.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    batch, size = torch.export.Dim("batch"), torch.export.Dim("height", min=4, max=64)
    x = torch.zeros(2, 3, 16, 16)

    def path(name):
        return os.path.join(out, name + ".pt2")
    export(Plain(lambda x, y: torch.ops.mylib.twice(x)), path("bad_operator"))
    export(Plain(lambda x, y: x + y), path("bad_inputs"), (x, torch.zeros(2, 3)), ({0: batch}, {0: batch}))
    export(Plain(), path("bad_height"), (x,), ({0: batch, 2: 4 * torch.export.Dim("rows", min=1, max=16)},))
    export(Plain(), path("bad_batch"), (x,), ({},))
    export(Plain(lambda x, y: torch.softmax(x, 1)), path("bad_softmax"))
    export(
        nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        path("bad_train"),
        eval_mode=False,
    )
    export(Plain(lambda x, y: (x, x * 2)), path("two_outputs"))
    export(Plain(lambda x, y: x + torch.rand(x.shape)), path("bad_random"))
    export(Alias(), path("bad_alias"))
    export(Tied(), path("tied"))
    net = Plain().to(memory_format=torch.channels_last)
    export(net, path("channels_last"))
    torch.save({"logits": net(torch.ones(1, 3, 16, 16)).detach()}, path("channels_last")[:-1])
    net, x64 = Double(), torch.ones(2, 3, 16, 16, dtype=torch.float64)
    export(net, path("double"), (x64,))
    torch.save({"logits": net(x64).detach()}, path("double")[:-1])
    export(Plain(lambda x, y: x + torch.add(x.detach(), 1, out=torch.empty_like(x.detach()))), path("bad_out"))
    torch.jit.save(torch.jit.trace(Plain().eval(), x), path("bad_torchscript"))
    with zipfile.ZipFile(path("bad_old"), "w") as z:  # as torch 2.7 wrote it
        for name in ("version", "serialized_exported_program.json", "serialized_state_dict.pt"):
            z.writestr(name, "8.1")
    records = records_of(path("channels_last"))  # as torch 2.8 wrote it
    weights = {k: v for k, v in net.state_dict().items()}
    for name in [n for n in records if n.startswith("data/")]:
        del records[name]
    records["data/weights/model.pt"], records["data/constants/model.pt"] = saved(weights), saved({})
    write_records(path("torch28"), records)


def write(out, name, net, size, channels, small_one):
    torch.manual_seed(1)
    net = settle(net, size, channels, small_one)
    path = os.path.join(out, name)
    program = torch.export.export(
        net, (torch.zeros(2, channels, size, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, path + ".pt2")
    x = torch.rand(3 if small_one else 2, channels, size, size) * 2 - 1
    want = {"x": x, "threads": torch.get_num_threads()}
    if small_one:
        strip(path + ".pt2")
    else:
        want["float32"] = gradients(net, x)
    want["float64"] = gradients(net.double(), x.double())
    if name in LAYERS:
        want["maps"], want["layer"] = cams(net, name, x.double()), LAYERS[name][0]
    if name in GLOBAL:
        want["maps"].update(attentions(net, x.double()))
    torch.save(want, path + ".pt")
    print(
        name, "nodes", len(program.graph.nodes), "logits", want["float64"]["logits"].flatten()[:3].tolist(), flush=True
    )


def open_run(run, name):
    """weights.pt of a run goes into the module that was exported, strictly, and gives the run's answers."""
    net = small()[name][0].eval()
    net.load_state_dict(torch.load(os.path.join(run, "weights.pt"), weights_only=True), strict=True)
    answers = torch.load(os.path.join(run, "answers.pt"), weights_only=True)
    off = (net(answers["x"]) - answers["logits"]).abs().max().item()
    assert off < 1e-5, off
    print(f"{name}: weights.pt of the run goes into the Python module strictly; logits differ by {off:.2g}")
    print("1 cells passed, 0 failed, 0 without evidence")


def main():
    if sys.argv[1] == "open":
        return open_run(*sys.argv[2:])
    out, names = sys.argv[1], sys.argv[2:]
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if names == ["--small"]:
        torch.manual_seed(0)
        for name, (net, size) in small().items():
            write(out, name, net, size, 3, True)
        others(out)
        return
    for name in names:
        torch.manual_seed(0)
        net, size, channels = large(name)
        write(out, name, net, size, channels, False)


if __name__ == "__main__":
    main()
