"""The other side of the bench, in Python and the thesis' way: NCHW, float32, torchvision's networks. See worker.lua."""
import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
import torch  # noqa: E402
from measure import memory_mark, serve  # noqa: E402
from vision import thesis_network  # noqa: E402

nn = torch.nn
model = optimizer = x = y = flops = None


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def forward():
    with torch.no_grad():
        return model(x).sum().item()


def train():
    out = model(x)
    if isinstance(out, tuple):
        loss = nn.functional.cross_entropy(out[0], y) + 0.4 * nn.functional.cross_entropy(out[1], y)
    else:
        loss = nn.functional.cross_entropy(out, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


a, b, m = torch.ones(1), torch.ones(1), torch.ones(8, 8)


def add(n):
    for _ in range(n):
        a + b


def mul_(n):
    for _ in range(n):
        a.mul_(b)


def relu(n):
    for _ in range(n):
        torch.relu(a)


def view(n):
    for _ in range(n):
        m.view(64)


def sum(n):
    for _ in range(n):
        m.sum([1])


def matmul(n):
    for _ in range(n):
        torch.matmul(m, m)


CALLS = dict(add=add, mul_=mul_, relu=relu, view=view, sum=sum, matmul=matmul)


def op(name):
    with torch.no_grad():
        CALLS[name](1000)
        return timed(lambda: CALLS[name](20000)) / 20000 * 1e6


def gemm():
    n = 2048
    p, q = torch.rand(n, n), torch.rand(n, n)
    torch.mm(p, q)
    return 2 * n ** 3 / timed(lambda: torch.mm(p, q)) / 1e9


def count_flops():
    """Of one forward pass: two a multiplication and addition, of convolutions and linear layers."""
    total, hooks = [0], []

    def hook(layer, _, out):
        per = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        total[0] += 2 * per * out.numel()
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            hooks.append(layer.register_forward_hook(hook))
    forward()
    for h in hooks:
        h.remove()
    return total[0]


def load(name, batch):
    global model, optimizer, x, y, flops
    torch.manual_seed(1)
    model = thesis_network(name)
    size = 299 if name == "inception_v3" else 224
    x, y, optimizer = torch.rand(int(batch), 3, size, size), torch.arange(int(batch)) % 3, None
    model.eval()
    flops = count_flops()
    return memory_mark()


def training():
    global optimizer
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    return 0


def drop():
    global model, optimizer, x, y
    model = optimizer = x = y = None
    gc.collect()
    return 0


serve(hello=lambda: torch.__version__, op=op, gemm=gemm, load=load, training=training,
      forward=lambda: timed(forward), train=lambda: timed(train), flops=lambda: flops, drop=drop)
