# Makes optim.npy and optim_rates.txt: what torch.optim's optimizers and schedulers do, for tests/optim_python.lua.
# Run with Debian's torch 1.13.1: /usr/bin/python3 tests/reference/optim.py
# optim.npy: (1 + steps + cases * steps, 24) float32: first parameters, gradients, parameters after each step of each
# case.
import os
import numpy as np
import torch
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, ReduceLROnPlateau, SequentialLR, StepLR

here = os.path.dirname(os.path.abspath(__file__))
STEPS = 20
CASES = [  # the same list stands in tests/optim_python.lua
    lambda p: SGD(p, lr=0.1),
    lambda p: SGD(p, lr=0.1, momentum=0.9),
    lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    lambda p: SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.001),
    lambda p: Adam(p, lr=0.01),
    lambda p: Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, amsgrad=True),
    lambda p: AdamW(p, lr=0.01),
    lambda p: AdamW(p, lr=0.03, weight_decay=0.2, amsgrad=True),
    lambda p: RMSprop(p, lr=0.01),
    lambda p: RMSprop(p, lr=0.02, alpha=0.9, momentum=0.7, centered=True, weight_decay=0.05),
    lambda p: SGD([{"params": p[:1]}, {"params": p[1:], "lr": 0.5, "momentum": 0.0}], lr=0.1, momentum=0.9),
]


def optimizers():
    rng = np.random.RandomState(7)
    first = rng.randn(24).astype(np.float32)  # w: 20 values as (5, 4), b: 4
    grads = rng.randn(STEPS, 24).astype(np.float32)
    rows = [first, *grads]
    for make in CASES:
        w = torch.tensor(first[:20].reshape(5, 4).copy(), requires_grad=True)
        b = torch.tensor(first[20:].copy(), requires_grad=True)
        opt = make([w, b])
        for i in range(STEPS):
            w.grad = torch.tensor(grads[i, :20].reshape(5, 4).copy())
            b.grad = torch.tensor(grads[i, 20:].copy()) if i % 3 != 2 else None  # skipped then
            opt.step()
            rows.append(np.concatenate([w.detach().numpy().ravel(), b.detach().numpy()]))
    np.save(os.path.join(here, "optim.npy"), np.stack(rows))


def rates():
    rng = np.random.RandomState(3)
    losses = np.round(1 + 0.3 * rng.randn(60), 3).cumsum() / np.arange(1, 61)
    makers = {
        "step_lr": lambda o: StepLR(o, 7, 0.1),
        "step_lr_slow": lambda o: StepLR(o, 3, 0.7),
        "multistep_lr": lambda o: MultiStepLR(o, [4, 9, 9, 30], 0.3),
        "cosine_annealing_lr": lambda o: CosineAnnealingLR(o, 13, 1e-4),
        "reduce_lr_on_plateau": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=2, cooldown=1, min_lr=1e-3),
        "reduce_lr_on_plateau_max": lambda o: ReduceLROnPlateau(
            o, mode="max", threshold_mode="abs", patience=1, threshold=0.01
        ),
        "warmup": lambda o: LinearLR(o, 1 / 3, 1.0, 5),
        "warmup_step_lr": lambda o: SequentialLR(o, [LinearLR(o, 0.1, 1.0, 4), StepLR(o, 5, 0.3)], [4]),
        "warmup_cosine": lambda o: SequentialLR(o, [LinearLR(o, 0.25, 1.0, 6), CosineAnnealingLR(o, 20, 1e-3)], [6]),
    }
    with open(os.path.join(here, "optim_rates.txt"), "w") as f:
        f.write("losses " + " ".join(float(v).hex() for v in losses) + "\n")
        for name, make in makers.items():
            opt = SGD([torch.zeros(1, requires_grad=True)], lr=0.03)
            schedule = make(opt)
            out = [opt.param_groups[0]["lr"]]
            for loss in losses:
                opt.step()
                schedule.step(*([loss] if "plateau" in name else []))
                out.append(opt.param_groups[0]["lr"])
            f.write(name + " " + " ".join(float(v).hex() for v in out) + "\n")


assert torch.__version__.startswith("1.13"), torch.__version__
optimizers()
rates()
