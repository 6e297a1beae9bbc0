"""Makes the small files of weights in tests/reference/checkpoints, as torch and torchvision write them.

    python3 checkpoints.py a|b DIR      a: torch 1.13 (zip, legacy), b: torch 2.x and safetensors

Values come from a fixed formula, so both environments write the same numbers; expected.lua holds them.
"""
import os
import sys
from collections import OrderedDict

import torch
from vision import torchvision

which, folder = sys.argv[1], sys.argv[2]
os.makedirs(folder, exist_ok=True)


def path(name):
    return os.path.join(folder, name)


def densenet():
    net = torchvision.models.DenseNet(growth_rate=2, block_config=(1, 1), num_init_features=4, bn_size=1, num_classes=3)
    k = 0
    for t in net.state_dict().values():
        n = t.numel()
        with torch.no_grad():
            values = ((torch.arange(k, k + n, dtype=torch.float64) * 37) % 101 - 50) / 64
            t.copy_(values.view(t.shape) if t.is_floating_point() else torch.tensor(7))
        k += n
    return net


def odd():
    """Tensors that lie unusually in their storage, and every type."""
    base = torch.arange(24, dtype=torch.float32)
    return OrderedDict(
        whole=base.view(2, 3, 4),
        part=base[5:11].view(2, 3),
        transposed=base[:6].view(2, 3).t(),
        last=base[23],
        channels_last=(torch.arange(2 * 3 * 2 * 2, dtype=torch.float32) / 8)
        .view(2, 3, 2, 2)
        .contiguous(memory_format=torch.channels_last),
        expanded=torch.tensor([1.5]).expand(3),
        empty=torch.zeros(0, 3),
        scalar=torch.tensor(2.5),
        f64=torch.tensor([0.1, -1e300], dtype=torch.float64),
        f16=torch.tensor([0.1, 65504.0]).half(),
        bf16=torch.tensor([0.1, 1e30]).bfloat16(),
        i64=torch.tensor([-(2**62), 3]),
        i32=torch.tensor([-5, 6], dtype=torch.int32),
        i16=torch.tensor([-300, 7], dtype=torch.int16),
        i8=torch.tensor([-8, 9], dtype=torch.int8),
        u8=torch.tensor([250, 1], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
    )


def lua(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if value == value else "0/0"
    return "{" + ", ".join(lua(v) for v in value) + "}"


def expected(states):
    with open(path("expected.lua"), "w") as f:
        f.write("-- Written by tests/reference/checkpoints.py: what the files beside it hold.\nreturn {\n")
        for name, state in states.items():
            f.write("  %s = {\n" % name)
            for key, t in state.items():
                f.write('    { name = "%s", dtype = "%s", shape = %s, values = %s },\n'
                        % (key, str(t.dtype)[6:], lua(list(t.shape)), lua(t.tolist())))
            f.write("  },\n")
        f.write("}\n")


def old_names(state):
    import re
    return OrderedDict((re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", k), v) for k, v in state.items()
                       if not k.endswith("num_batches_tracked"))


def neighbours():
    """What training scripts save beside a state dict: plain data of Python's library and of numpy."""
    import argparse, collections, datetime, decimal, pathlib, types
    import numpy as np
    shared = ["a", "b"]
    return {"args": argparse.Namespace(lr=0.1, root=pathlib.PurePosixPath("/data"), device=torch.device("cpu"),
                                       kind=float),
            "best": np.float64(0.93), "curve": np.linspace(0, 1, 3), "names": np.array(["a", {"b": 1}], dtype=object),
            "history": collections.defaultdict(list, {"loss": [0.5, 0.25], "accuracy": [np.float32(1)]}),
            "last": collections.deque([1, 2], 3), "out": pathlib.PurePosixPath("/out"),
            "when": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), "price": decimal.Decimal("1.5"),
            "notes": types.SimpleNamespace(a=1), "by_pair": {(1, 2): 3}, "torch": torch.__version__,
            "one": shared, "two": shared, "epoch": 3}


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/medxai_was_here",))


net = densenet()
state = net.state_dict()
if which == "a":
    torch.save(state, path("densenet.pt"))
    torch.save(state, path("densenet_legacy.pth"), _use_new_zipfile_serialization=False)
    torch.save(odd(), path("odd.pt"))
    torch.save(odd(), path("odd_legacy.pth"), _use_new_zipfile_serialization=False)
    torch.save(
        {
            "epoch": 3,
            "arch": "densenet",
            "best": 0.75,
            "state_dict": OrderedDict(("module." + k, v.half()) for k, v in state.items()),
            "optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict(),
        },
        path("training.pt"),
    )
    torch.save(old_names(state), path("densenet_old_names.pth"), _use_new_zipfile_serialization=False)
    torch.save({"weights": torch.zeros(2), "extra": Evil()}, path("evil.pt"))
    torch.save(
        {"weights": torch.zeros(2), "extra": Evil()}, path("evil_legacy.pth"), _use_new_zipfile_serialization=False
    )
    torch.save(net, path("whole_model.pt"))
    expected({"densenet": state, "odd": odd()})
else:
    from safetensors.torch import save_file
    torch.save({"model": dict(net.named_parameters()), "note": "parameters"}, path("parameters_torch2.pt"))
    torch.save(
        OrderedDict(("model.module." + k, v.double()) for k, v in state.items()),
        path("densenet_torch2.pt"),
        pickle_protocol=4,
    )
    small = OrderedDict([("fc.weight", torch.arange(6.0).view(2, 3)), ("fc.bias", torch.tensor([0.5, -1.0]))])
    torch.save({"state_dict": small, **neighbours()}, path("neighbours.pt"))
    torch.save({"state_dict": small, **neighbours()}, path("neighbours_legacy.pth"), pickle_protocol=4,
               _use_new_zipfile_serialization=False)
    torch.save({"state_dict": small, "best": neighbours()["best"], "extra": Evil()}, path("neighbours_evil.pt"))
    save_file({k: v.contiguous() for k, v in state.items()}, path("densenet.safetensors"), metadata={"format": "pt"})
    save_file({k: v.contiguous().clone() for k, v in odd().items()}, path("odd.safetensors"))
