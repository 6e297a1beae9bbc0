"""The small network and images of the dumps that are committed (tests/tinycam.lua has the same): all by formula,
float64."""

import numpy as np
import torch


class Toy(torch.nn.Module):
    """Three convolutions, one batch norm, pooling, two linear layers; every parameter by formula. features.3 feeds a
    rectifier that may
    work in place; features.6 is the last layer."""

    def __init__(self, act, in_place):
        super().__init__()
        nn = torch.nn

        def rectifier():
            return nn.ReLU(inplace=in_place) if act == "relu" else nn.SiLU(inplace=in_place)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1),
            nn.BatchNorm2d(6),
            rectifier(),
            nn.Conv2d(6, 8, 3, 1, 1),
            rectifier(),
            nn.Conv2d(8, 10, 3, 2, 1),
            rectifier(),
        )
        self.fc1, self.relu, self.fc2 = nn.Linear(10, 7), nn.ReLU(inplace=in_place), nn.Linear(7, 3)
        state = self.double().state_dict()
        for k, name in enumerate(n for n in state if not n.endswith("num_batches_tracked")):
            p = state[name]
            v = np.sin(np.arange(p.numel()) * (0.7 + 0.3 * k) + k).reshape(p.shape) * 0.6
            if name.endswith("running_var") or name == "features.1.weight":
                v = v * v + 0.5
            p.copy_(torch.from_numpy(v))

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return self.fc2(self.relu(self.fc1(x)))


def toy_images():
    """2 x 3 x 24 x 34, different in each quadrant and channel."""
    n = np.arange(2 * 3 * 24 * 34, dtype=np.float64)
    x = (0.5 + 0.5 * np.sin(n * 0.113) * np.cos(n * 0.0031)).reshape(2, 3, 24, 34)
    x[0, 0, :11, :17] *= 0.2
    x[0, 2, 13:, 17:] = 1
    x[1, 1, :, 23:] = 0
    return torch.from_numpy(x)
