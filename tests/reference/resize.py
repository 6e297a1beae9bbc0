"""What Pillow makes of made pictures. Writes, beside itself:
  pictures/*.png, *.jpg   small files of every kind that the reader must take, pictures/expected.lua what Pillow reads
  in them
  ../c/resize_expected.h  SHA-256 of Pillow's bilinear, nearest and short-side-and-crop results for pictures made by
  formula
Run by hand with the reference environment (Pillow, numpy): python tests/reference/resize.py [--all DIR]
--all DIR writes the whole comparison instead, for tests/parity_data.lua: pictures and what Pillow makes of them as
.npy.
"""

import hashlib
import io
import os
import sys

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def formula(w, h, c):
    """Different in every quadrant and channel; the same integers in tests/c/resize.c."""
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    k = np.arange(c)[None, None, :]
    x, y = x[:, :, None], y[:, :, None]
    v = x * (3 + 2 * k) + y * (7 - k) + (x * y) // (5 + k) + 40 * (x * 2 > w) + 90 * (y * 2 > h) + 31 * k
    v = (v % 256).astype(np.uint8)
    return v[:, :, 0] if c == 1 else v


def digest(a):
    h, w = a.shape[:2]
    c = 1 if a.ndim == 2 else a.shape[2]
    return hashlib.sha256(b"%d %d %d\n" % (w, h, c) + np.ascontiguousarray(a).tobytes()).hexdigest()


def fit(im, resize, size, how=Image.BILINEAR):
    """torchvision's Resize(resize) and CenterCrop(size)."""
    w, h = im.size
    short, long = min(w, h), max(w, h)
    other = int(resize * long / short)
    nw, nh = (resize, other) if w <= h else (other, resize)
    if (nw, nh) != (w, h):
        im = im.resize((nw, nh), how)
    left, top = int(round((nw - size) / 2.0)), int(round((nh - size) / 2.0))
    return im.crop((left, top, left + size, top + size))


SOURCES = [(1024, 1024), (320, 211), (255, 255), (256, 256), (211, 320), (1024, 873), (97, 61)]
TARGETS = [(224, 224), (255, 255), (256, 256), (299, 299), (64, 48), (400, 333)]
FITS = [(255, 224), (256, 224), (256, 225), (299, 299), (40, 33)]


def mixed(source, target):
    """Wider and lower at once: Pillow 13 goes down first there, Pillow before it across first. The reader never does
    it."""
    return target[0] > source[0] and target[1] < source[1]


def header():
    rows = []
    for (w, h) in SOURCES:
        for c in (1, 3):
            im = Image.fromarray(formula(w, h, c))
            for (tw, th) in TARGETS:
                if mixed((w, h), (tw, th)):
                    continue
                rows.append((w, h, c, tw, th, "BILINEAR", digest(np.asarray(im.resize((tw, th), Image.BILINEAR)))))
                rows.append((w, h, c, tw, th, "NEAREST", digest(np.asarray(im.resize((tw, th), Image.NEAREST)))))
            for (r, s) in FITS:
                rows.append((w, h, c, r, s, "FIT", digest(np.asarray(fit(im, r, s)))))
                rows.append((w, h, c, r, s, "FIT_NEAREST", digest(np.asarray(fit(im, r, s, Image.NEAREST)))))
    with open(os.path.join(HERE, "../c/resize_expected.h"), "w") as f:
        f.write(
            "/* Written by tests/reference/resize.py from Pillow: image w x h x c, target (or short side"
            " and crop), how,\n * SHA-256. */\n"
        )
        for row in rows:
            f.write('{ %d, %d, %d, %d, %d, %s, "%s" },\n' % row)


def kinds():
    """Name, bytes, what Pillow reads as RGB or L (8 bits)."""
    colour, grey = Image.fromarray(formula(53, 37, 3)), Image.fromarray(formula(53, 37, 1))
    alpha = colour.copy()
    alpha.putalpha(grey)
    grey_alpha = Image.merge("LA", (grey, grey.rotate(180)))
    pngs = [
        ("grey", grey, {}),
        ("colour", colour, {}),
        ("alpha", alpha, {}),
        ("grey_alpha", grey_alpha, {}),
        ("palette", colour.quantize(64), {}),
        ("palette4", colour.quantize(9), {"bits": 4}),
        ("one_bit", grey.convert("1"), {}),
        ("transparent_palette", colour.quantize(16), {"transparency": 3}),
    ]
    for name, im, options in pngs:
        b = io.BytesIO()
        im.save(b, "PNG", **options)
        want = Image.open(io.BytesIO(b.getvalue()))
        want = want.convert("L") if want.mode in ("L", "LA", "1") else want.convert("RGB")
        yield name + ".png", b.getvalue(), np.asarray(want)
    deep = formula(53, 37, 1).astype(np.uint16) * 257 + (np.arange(37)[:, None] * 5).astype(np.uint16) % 200
    b = io.BytesIO()
    Image.fromarray(deep).save(b, "PNG")
    yield "deep.png", b.getvalue(), np.floor(deep / 257.0 + 0.5).clip(0, 255).astype(np.uint8)
    for q in (40, 90):
        for name, im, options in [
            ("grey", grey, {}),
            ("444", colour, {"subsampling": 0}),
            ("422", colour, {"subsampling": 1}),
            ("420", colour, {"subsampling": 2}),
            ("progressive", colour, {"progressive": True}),
        ]:
            b = io.BytesIO()
            im.save(b, "JPEG", quality=q, **options)
            yield "%s_%d.jpg" % (name, q), b.getvalue(), np.asarray(Image.open(io.BytesIO(b.getvalue())))


def write_pictures():
    folder = os.path.join(HERE, "pictures")
    os.makedirs(folder, exist_ok=True)
    lines = ["-- Written by tests/reference/resize.py: the digest of what Pillow reads in each file.", "return {"]
    for name, data, want in kinds():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        lines.append('  { name = "%s", digest = "%s" },' % (name, digest(want)))
    lines.append("}")
    with open(os.path.join(folder, "expected.lua"), "w") as f:
        f.write("\n".join(lines) + "\n")


def write_all(folder):
    """Every source x target, whole, and JPEGs of natural size."""
    os.makedirs(folder, exist_ok=True)
    index = []
    for (w, h) in SOURCES:
        for c in (1, 3):
            a = formula(w, h, c)
            im, name = Image.fromarray(a), "%dx%dx%d" % (w, h, c)
            im.save(os.path.join(folder, name + ".png"))
            for (r, s) in FITS:
                np.save(os.path.join(folder, "%s_%d_%d.npy" % (name, r, s)), np.asarray(fit(im, r, s)))
                index.append("fit %s.png %s_%d_%d.npy %d %d" % (name, name, r, s, r, s))
            smooth = fit(im, min(w, h), min(w, h)).resize((200, 200), Image.BICUBIC)
            for q in (30, 75, 95):
                jpeg = "%s_%d.jpg" % (name, q)
                smooth.save(os.path.join(folder, jpeg), "JPEG", quality=q)
                np.save(os.path.join(folder, jpeg + ".npy"), np.asarray(Image.open(os.path.join(folder, jpeg))))
                index.append("jpeg %s %s.npy" % (jpeg, jpeg))
    for name, data, want in kinds():
        with open(os.path.join(folder, name), "wb") as f:
            f.write(data)
        np.save(os.path.join(folder, name + ".npy"), want)
        index.append("%s %s %s.npy" % ("jpeg" if name.endswith("jpg") else "exact", name, name))
    with open(os.path.join(folder, "index.txt"), "w") as f:
        f.write("\n".join(index) + "\n")


if len(sys.argv) > 2 and sys.argv[1] == "--all":
    write_all(sys.argv[2])
else:
    header()
    write_pictures()
