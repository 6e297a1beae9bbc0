"""torchvision's pictures for tests/data_augment.lua: the transforms of augment_cases.lua with the parameters in
augment/drawn.json forced. Run in the checkout's folder: python tests/reference/augment.py (torchvision 0.28).

A bilinear sample that lies partly outside is darkened twice by torchvision where a fill is given; here the fill is
subtracted before and added after, so that it has the share that lies outside."""
import json
import numpy as np
import torch
from PIL import Image
import vision  # noqa: F401  torchvision without its compiled operators
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

FOLDER = "tests/reference/augment/"
SIZE = 24


def picture():
    px = np.zeros((SIZE, SIZE, 3), np.uint8)
    for y in range(SIZE):
        for x in range(SIZE):
            for k in (1, 2, 3):
                px[y, x, k - 1] = (x * 7 + y * 5 * k + x * y // k) % 256
    return torch.from_numpy(px).permute(2, 0, 1)


def turned(x, how, do):
    fill = torch.tensor(how["fill"]).view(3, 1, 1)
    mode = InterpolationMode(how["interpolation"])
    if mode == InterpolationMode.NEAREST:
        return do(x, interpolation=mode, fill=[round(v) for v in how["fill"]])
    return (do(x.float() - fill, interpolation=mode, fill=None) + fill).round().to(torch.uint8)


def jittered(x, how, d):
    adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation]
    for which in d[3:]:
        x = adjust[int(which)](x, d[int(which)])
    return x


def one(x, how, d):
    name, center = how["name"], how.get("center")
    box = [int(v) for v in d] if name in ("random_resized_crop", "random_erasing") else None
    if name == "random_horizontal_flip":
        return F.horizontal_flip(x)
    if name == "random_vertical_flip":
        return F.vertical_flip(x)
    if name == "random_rotation":
        return turned(x, how, lambda v, **more: F.rotate(v, d[0], center=center, **more))
    if name == "random_affine":
        return turned(x, how, lambda v, **more: F.affine(v, d[0], [int(d[1]), int(d[2])], d[3], d[4:6], center=center,
                                                         **more))
    if name == "random_resized_crop":
        image = Image.fromarray(x.permute(1, 2, 0).numpy())
        return F.pil_to_tensor(F.resized_crop(image, *box, [SIZE, SIZE], InterpolationMode(how["interpolation"])))
    if name == "color_jitter":
        return jittered(x, how, d)
    if name == "gaussian_blur":
        return F.gaussian_blur(x, [int(k) for k in how["kernel_size"]], [d[0], d[0]])
    value = torch.tensor([round(v) for v in how["fill"]], dtype=torch.uint8).view(3, 1, 1)
    return F.erase(x, *box, value)


rows = json.load(open(FOLDER + "drawn.json"))
out = [one(picture(), row["transform"], row["drawn"]).permute(1, 2, 0).numpy() for row in rows]
np.save(FOLDER + "torchvision.npy", np.stack(out).astype(np.uint8))
