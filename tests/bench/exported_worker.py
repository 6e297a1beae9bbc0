"""The other side of ./bootstrap bench exported: torch.export.load, the module itself in eager PyTorch,
pytorch-grad-cam; with the word "module" the exported program as a module. See exported_worker.lua."""

import contextlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from measure import serve  # noqa: E402
from exported import LAYERS, large, reshaper, first  # noqa: E402
import pytorch_grad_cam as pgc  # noqa: E402
import torch  # noqa: E402

net = x = program = None
path = name = None


def hello():
    return torch.__version__.split("+")[0]


def open_(folder, which, _layout=None):
    """Seconds from the file to the first answer for one image."""
    global program, path, name, x
    path, name = f"{folder}/{which}.pt2", which
    image = torch.load(path[:-1])["x"][:1]
    x = image.repeat(8, 1, 1, 1)
    start = time.perf_counter()
    program = torch.export.load(path)
    with torch.no_grad():
        program.module()(image)
    return time.perf_counter() - start


def eager():
    """The module that was exported, with the file's weights."""
    global net
    if sys.argv[2:] == ["module"]:
        net = program.module()
        return 1
    net = large(name)[0].eval()
    net.load_state_dict(program.state_dict, strict=False)
    return 1


def forward(n):
    with torch.no_grad():
        start = time.perf_counter()
        net(x[:int(n)])
        return time.perf_counter() - start


class One(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, x):
        return first(self.net(x))


def gradcam(n):
    where, kind = LAYERS[name]
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        start = time.perf_counter()
        with pgc.GradCAM(
            model=One().eval(), target_layers=[net.get_submodule(where)], reshape_transform=reshaper(kind)
        ) as cam:
            cam(input_tensor=x[:int(n)], targets=None)
        return time.perf_counter() - start


torch.set_num_threads(int(sys.argv[1]))
serve(hello=hello, open=open_, eager=eager, forward=forward, gradcam=gradcam)
