"""Superpixels and boundaries by scikit-image: what parity_segments.lua and tests/c/segment.c compare with.

    python perturb_segments.py OUT DATA          label maps of real X-rays and adversarial images, with the Lab image
    each came from
    python perturb_segments.py --header          tests/c/segment_expected.h: digests of label maps of pictures made by
    formula
    python perturb_segments.py --xrays DATA      perturb_segments.txt: the same for twelve real X-rays

Works with scikit-image 0.19.3 (environment a) and 0.26 (b). The header holds what both agree on.
Links of equal length are ties that the last bits of Lab decide, and those change with NumPy's instruction set: on the
same
machine 0.19.3 gives 5 of 145 X-rays other labels with NPY_DISABLE_CPU_FEATURES set. So each Lab image is written too,
blurred
where a setting blurs: from it the labels must be equal without exception.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from skimage.color import rgb2lab
from skimage.filters import gaussian
from skimage.segmentation import find_boundaries, quickshift, slic

HERE = Path(__file__).parent
SEED = "random_seed" if tuple(map(int, skimage.__version__.split(".")[:2])) < (0, 21) else "rng"

LIME = ("quickshift", dict(kernel_size=4, max_dist=200, ratio=0.2, sigma=0, seed=42))
SHAP = ("slic", dict(n_segments=10, compactness=10, sigma=0, connected=True))
SETTINGS = [  # LIME's and the kernel explainer's, then the rest of the range
    LIME, SHAP,
    ("quickshift", dict(kernel_size=5, max_dist=10, ratio=1.0, sigma=0, seed=42)),
    ("quickshift", dict(kernel_size=1, max_dist=3, ratio=0.5, sigma=0, seed=7)),
    ("quickshift", dict(kernel_size=2.3, max_dist=6, ratio=0.7, sigma=1.3, seed=123)),
    ("slic", dict(n_segments=100, compactness=0.1, sigma=0, connected=True)),
    ("slic", dict(n_segments=50, compactness=10, sigma=1, connected=True)),
    ("slic", dict(n_segments=300, compactness=1, sigma=0, connected=False)),
    ("slic", dict(n_segments=1, compactness=10, sigma=0, connected=True)),
]


def segment(image, kind, o, lab=False):
    if kind == "quickshift":
        return quickshift(
            image,
            kernel_size=o["kernel_size"],
            max_dist=o["max_dist"],
            ratio=o["ratio"],
            sigma=o["sigma"],
            convert2lab=not lab,
            **{SEED: o["seed"]},
        ).astype(np.int64)
    return (
        slic(
            image,
            n_segments=o["n_segments"],
            compactness=o["compactness"],
            sigma=o["sigma"],
            enforce_connectivity=o["connected"],
            convert2lab=not lab,
            start_label=1,
        ).astype(np.int64)
        - 1
    )


# ---- images ----

def made_image():
    """320 x 211, coloured, different in each quadrant and channel (as gradcam.py's)."""
    h, w = 211, 320
    y, x = np.mgrid[0:h, 0:w]
    image = np.zeros((h, w, 3), np.uint8)
    image[..., 0] = (x * 255 // w) * (y < h // 2)
    image[..., 1] = ((x // 16 + y // 16) % 2) * 200 * (x < w // 2) + 30
    image[..., 2] = 255 * np.exp(-((x - 250) ** 2 + (y - 160) ** 2) / 2000.0)
    return image


def adversarial():
    r = np.random.RandomState(5)
    three = np.array([[.9, .1, .1], [.1, .8, .2], [.2, .2, .95]])
    y, x = np.mgrid[0:90, 0:131]
    return {
        "constant": np.full((64, 64, 3), 0.37),
        "black": np.zeros((50, 60, 3)),
        "coloured_constant": np.full((61, 97, 3), 0.5) * [0.2, 0.6, 1.0],
        "one_wide": r.rand(200, 1, 3),
        "one_high": r.rand(1, 300, 3),
        "one_pixel": r.rand(1, 1, 3),
        "one_wide_constant": np.full((200, 1, 3), 0.25),
        "two": r.rand(2, 2, 3),
        "tiny": r.rand(5, 7, 3),
        "three_colours": three[r.randint(0, 3, (80, 113))],
        "three_blocks": three[(y // 30 + x // 30) % 3],
        "noise": r.rand(100, 140, 3),
        "made": made_image() / 255.0,
        "checkers": np.repeat(((y + x) % 2)[..., None], 3, 2).astype(float),
    }


def read(path, size):
    """In double precision, but as ToTensor rounded it: what the thesis gave to LIME."""
    pixels = np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR))
    return (pixels.astype(np.float32) / 255).astype(np.float64)


def x_rays(data):
    for folder in sorted(Path(data).glob("*/Test/*/images")):
        for i, path in enumerate(sorted(folder.iterdir())):
            yield f"{folder.parent.parent.parent.name.split()[0]}-{folder.parent.name}-{i:02d}", read(path, 224), 2
    folder = sorted(Path(data).glob("Lung*/Test/Normal/images"))[0]
    paths = sorted(folder.iterdir())
    yield "px299", read(paths[0], 299), len(SETTINGS)
    yield "px256", read(paths[1], 256), len(SETTINGS)
    yield "px1024", read(paths[2], 1024), 2


# ---- dumps ----

def label_maps(out, name, image, count, jobs):
    np.save(out / f"{name}.npy", np.ascontiguousarray(image.transpose(2, 0, 1)))
    np.save(out / f"{name}.lab.npy", np.ascontiguousarray(rgb2lab(image).transpose(2, 0, 1)))
    for k, (kind, o) in enumerate(SETTINGS[:count]):
        np.save(out / f"{name}.{k}.npy", segment(image, kind, o))
        lab = rgb2lab(image)
        if o["sigma"] > 0:
            lab = gaussian(lab, sigma=[o["sigma"], o["sigma"], 0], mode="reflect", channel_axis=-1)
            np.save(out / f"{name}.{k}.blurred.npy", np.ascontiguousarray(lab.transpose(2, 0, 1)))
        np.save(out / f"{name}.{k}.lab.npy", segment(lab, kind, dict(o, sigma=0), lab=True))
        jobs.append(dict(image=name, kind=kind, k=k, **o))


def boundaries(out, jobs):
    r = np.random.RandomState(11)
    for k in range(30):
        h, w = r.randint(1, 40, 2)
        coarse = (
            r.randint(-1, 3, ((h + 4) // 5, (w + 4) // 5)) if k % 2 else r.randint(0, 6, ((h + 2) // 3, (w + 2) // 3))
        )
        labels = np.kron(coarse, np.ones((5, 5) if k % 2 else (3, 3), int))[:h, :w].astype(np.int64)
        np.save(out / f"boundary.{k}.npy", labels)
        np.save(out / f"boundary.{k}.int64.npy", find_boundaries(labels, mode="outer").astype(np.uint8))
        np.save(
            out / f"boundary.{k}.int32.npy", find_boundaries(labels.astype(np.int32), mode="outer").astype(np.uint8)
        )
        jobs.append(dict(boundary=k))


def lua(value):
    return {True: "true", False: "false"}.get(value) if isinstance(value, bool) else json.dumps(value)


def dump(out, data):
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for name, image, count in x_rays(data):
        label_maps(out, name, image, count, jobs)
    for name, image in adversarial().items():
        label_maps(out, name, image, len(SETTINGS), jobs)
    boundaries(out, jobs)
    rows = ["  { " + ", ".join(f"{k} = {lua(v)}" for k, v in job.items()) + " },\n" for job in jobs]
    (out / "jobs.lua").write_text(f'return {{ version = "{skimage.__version__}",\n' + "".join(rows) + "}\n")
    print(skimage.__version__, len(jobs), "comparisons written")


# ---- the header for tests/c/segment.c ----

def formula(kind, h, w):
    """The same integers as in tests/c/segment.c, 0 .. 255, (h, w, 3)."""
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    k = np.arange(3)[None, None, :]
    x, y = x[..., None], y[..., None]
    if kind == "CONSTANT":
        v = 94 + 0 * (x + y + k)
    elif kind == "SMOOTH":  # grey, as an X-ray: slopes with a little grain
        v = (x * x // 37 + y * 3 + (x * 7919 + y * 104729) % 13) % 256 // 2 + 60 + 0 * k
    elif kind == "COLOURED":
        v = x * (3 + 2 * k) + y * (7 - k) + (x * y) // (5 + k) + 40 * (x * 2 > w) + 90 * (y * 2 > h) + 31 * k
    else:  # THREE colours
        v = ((x // 9 + y // 7) % 3 == k) * 150 + 40
    return (v % 256).astype(np.float64) / 255


HEADER = [
    ("CONSTANT", 40, 48),
    ("SMOOTH", 96, 80),
    ("COLOURED", 61, 97),
    ("THREE", 60, 71),
    ("COLOURED", 1, 90),
    ("SMOOTH", 120, 1),
    ("COLOURED", 1, 1),
]


def header():
    rows = []
    for kind, h, w in HEADER:
        image = formula(kind, h, w)
        for k, (how, o) in enumerate(SETTINGS):
            labels = segment(image, how, o)
            rows.append('{ %s, %d, %d, %d, %d, "%s" },\n' % (kind, h, w, k, labels.max() + 1, digest(labels)))
    (HERE / "../c/segment_expected.h").write_text(
        "/* Written by perturb_segments.py: formula, h x w, setting, largest label + 1, SHA-256 of the labels. */\n"
        + "".join(rows)
    )
    print(skimage.__version__, len(rows), "label maps")


def digest(labels):
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def few_x_rays(data):
    rows = []
    for folder in sorted(Path(data).glob("Lung*/Test/*/images")):
        for path in sorted(folder.iterdir())[3:7]:
            for kind, o in (LIME, SHAP):
                labels = segment(read(path, 224), kind, o)
                rows.append(f"{kind} {labels.max() + 1} {digest(labels)} {path.relative_to(data)}\n")
    (HERE / "perturb_segments.txt").write_text("".join(rows))
    print(skimage.__version__, len(rows), "label maps")


if __name__ == "__main__":
    if sys.argv[1] == "--header":
        header()
    elif sys.argv[1] == "--xrays":
        few_x_rays(Path(sys.argv[2]))
    else:
        dump(Path(sys.argv[1]), sys.argv[2])
