"""JPEG files of every kind and what Pillow reads in them.
  python tests/reference/jpeg.py            small files and their digests into pictures/jpeg/, for tests/data_jpeg.lua
  python tests/reference/jpeg.py --all DIR [XRAYS]
                                            thousands of files and DIR/digests.txt, for tests/parity_data.lua: every
                                            kind at many sizes, and X-rays (*.png, *.jpg below XRAYS) encoded anew
Needs Pillow, numpy and cjpeg (Debian's libjpeg-turbo-progs): Pillow cannot write most of these kinds."""
import io
import os
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))


def formula(w, h, c):
    """As in resize.py: different in every quadrant and channel."""
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    k = np.arange(c)[None, None, :]
    x, y = x[:, :, None], y[:, :, None]
    v = x * (3 + 2 * k) + y * (7 - k) + (x * y) // (5 + k) + 40 * (x * 2 > w) + 90 * (y * 2 > h) + 31 * k
    v = (v % 256).astype(np.uint8)
    return v[:, :, 0] if c == 1 else v


def digest(a):
    import hashlib
    h, w = a.shape[:2]
    c = 1 if a.ndim == 2 else a.shape[2]
    return hashlib.sha256(b"%d %d %d\n" % (w, h, c) + np.ascontiguousarray(a).tobytes()).hexdigest()


def read(data):
    """As the program shows it: grey as it is, everything else as red, green, blue."""
    im = Image.open(io.BytesIO(data))
    return np.asarray(im if im.mode == "L" else im.convert("RGB"))


def cjpeg(a, *options):
    head = (b"P5" if a.ndim == 2 else b"P6") + b"\n%d %d\n255\n" % (a.shape[1], a.shape[0])
    pnm = head + np.ascontiguousarray(a).tobytes()
    return subprocess.run(["cjpeg", *options], input=pnm, stdout=subprocess.PIPE, check=True).stdout


def scans(text):
    f = tempfile.NamedTemporaryFile("w", suffix=".txt")
    f.write(text)
    f.flush()
    return f


def segments(data):
    """[(marker, start, end)] up to the first scan."""
    at, out = 2, []
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        n = data[at + 2] << 8 | data[at + 3]
        out.append((data[at + 1], at, at + 2 + n))
        at += 2 + n
    return out


def without(data, marker):
    for m, a, b in reversed(segments(data)):
        if m == marker:
            data = data[:a] + data[b:]
    return data


def with_adobe(data, transform):
    """Adobe's segment with this transform, in place of those that say how the colours are coded."""
    bare = without(without(data, 0xE0), 0xEE)
    return bare[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform]) + bare[2:]


def with_ids(data, ids):
    """Other component ids in the frame and in every scan header."""
    data, old = bytearray(without(data, 0xE0)), None
    for m, a, b in segments(data):
        if m in (0xC0, 0xC1, 0xC2):
            old = [data[a + 10 + 3 * i] for i in range(data[a + 9])]
            for i, v in enumerate(ids):
                data[a + 10 + 3 * i] = v
    at = data.find(b"\xff\xda")
    while at >= 0:
        for i in range(data[at + 4]):
            data[at + 5 + 2 * i] = ids[old.index(data[at + 5 + 2 * i])]
        at = data.find(b"\xff\xda", at + 2)
    return bytes(data)


def with_orientation(data, orientation, order="<"):
    import struct
    tiff = b"II*\0" if order == "<" else b"MM\0*"
    tiff += struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def inks(a, **options):
    b = io.BytesIO()
    Image.fromarray(a).convert("CMYK").save(b, "JPEG", **options)
    return b.getvalue()


SAMPLINGS = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "4x4", "3x1", "1x3", "3x2"]
ODD = ["2x2,2x1,1x2", "1x1,2x2,1x1", "2x1,1x2,1x1", "2x2,1x2,2x1", "1x2,1x1,1x2", "4x2,2x1,1x1", "4x1,2x1,1x1"]
SEPARATE = "0;\n1;\n2;\n"
PARTS = """0 1 2: 0 0 0 1; 0: 1 9 0 2; 2: 1 63 0 1; 1: 1 63 0 1; 0: 10 63 0 2;
0: 1 63 2 1; 0 1 2: 0 0 1 0; 2: 1 63 1 0; 1: 1 63 1 0; 0: 1 63 1 0;
"""


def kinds(colour, grey):
    """(name, bytes) of every kind for one picture."""
    with scans(SEPARATE) as separate, scans(PARTS) as parts:
        codings = [("", []), ("_progressive", ["-progressive"]), ("_arithmetic", ["-arithmetic"]),
                   ("_arithmetic_progressive", ["-arithmetic", "-progressive"]), ("_restart", ["-restart", "1B"]),
                   ("_separate", ["-scans", separate.name]), ("_parts", ["-scans", parts.name])]
        for sampling in SAMPLINGS + ODD:
            whole = sampling if "," in sampling else sampling + ",1x1,1x1"
            for name, options in codings:
                try:
                    yield sampling.replace(",", "_") + name, cjpeg(colour, "-quality", "80", "-sample", whole, *options)
                except subprocess.CalledProcessError:
                    pass  # an MCU of more than ten blocks
    for name, options in [("", []), ("_progressive", ["-progressive"]), ("_arithmetic", ["-arithmetic"]),
                          ("_restart", ["-restart", "2B"]), ("_2x2", ["-sample", "2x2"]),
                          ("_1x2_restart", ["-sample", "1x2", "-restart", "1B"]), ("_q5", ["-quality", "5"]),
                          ("_q100", ["-quality", "100"]), ("_baseline_q1", ["-quality", "1", "-baseline"])]:
        yield "grey" + name, cjpeg(grey, *options)
    rgb = cjpeg(colour, "-rgb", "-quality", "90")
    yield "rgb", rgb
    yield "rgb_progressive", cjpeg(colour, "-rgb", "-progressive")
    plain = cjpeg(colour, "-sample", "2x2,1x1,1x1")
    yield "no_jfif", without(plain, 0xE0)
    for transform in (0, 1, 2, 7):
        yield "adobe_%d" % transform, with_adobe(plain, transform)
    yield "ids_rgb", with_ids(plain, b"RGB")
    yield "ids_other", with_ids(plain, b"\x05\x06\x07")
    for name, options in [("", {}), ("_progressive", {"progressive": True}), ("_q40", {"quality": 40})]:
        four = inks(colour, **options)
        yield "inks" + name, four
        yield "inks_no_adobe" + name, without(four, 0xEE)
        yield "inks_ycck" + name, with_adobe(four, 2)
        yield "inks_adobe_1" + name, with_adobe(four, 1)
    yield "orientation_6", with_orientation(plain, 6)
    yield "orientation_8_big_endian", with_orientation(plain, 8, ">")
    yield "orientation_1", with_orientation(plain, 1)
    yield "zeros_before_end", plain[:-2] + b"\0" * 40 + plain[-2:]
    yield "marker_0_before_end", plain[:-2] + b"\xff\x00\x11" * 4 + plain[-2:]
    yield "restart_before_end", plain[:-2] + b"\xff\xd3" + plain[-2:]
    yield "bytes_after_end", plain + b"appended"
    yield "tables_first", abbreviated(plain)


def abbreviated(data):
    """The tables as a stream of their own before the picture."""
    tables = b"".join(data[a:b] for m, a, b in segments(data) if m in (0xDB, 0xC4))
    return b"\xff\xd8" + tables + b"\xff\xd9" + data


NOTES = {"orientation_6": "orientation", "orientation_8_big_endian": "orientation", "zeros_before_end": "stray_bytes",
         "marker_0_before_end": "stray_bytes", "restart_before_end": "stray_bytes"}


def write_small():
    folder = os.path.join(HERE, "pictures", "jpeg")
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.remove(os.path.join(folder, name))
    cases = list(kinds(formula(27, 19, 3), formula(27, 19, 1)))
    for w, h in [(1, 1), (1, 17), (9, 1), (7, 5), (16, 16)]:
        for sampling in ("1x1", "2x1", "1x2", "2x2", "4x2"):
            cases.append(("%dx%d_%s" % (w, h, sampling), cjpeg(formula(w, h, 3), "-sample", sampling + ",1x1,1x1")))
        cases.append(("%dx%d_grey" % (w, h), cjpeg(formula(w, h, 1))))
    lines = ["-- Written by tests/reference/jpeg.py: the digest of what Pillow reads in each file, and its note.",
             "return {"]
    packed, at = bytearray(), 0
    for name, data in cases:
        note = ', note = "%s"' % NOTES[name] if name in NOTES else ""
        line = '  { name = "%s", at = %d, bytes = %d, digest = "%s"%s },'
        lines.append(line % (name, at, len(data), digest(read(data)), note))
        packed += data
        at += len(data)
    lines.append("}")
    with open(os.path.join(folder, "all.bin"), "wb") as f:
        f.write(packed)
    with open(os.path.join(folder, "expected.lua"), "w") as f:
        f.write("\n".join(lines) + "\n")


def pictures(xrays):
    """(name, colour, grey)"""
    for w, h in [(1, 1), (1, 2), (2, 1), (3, 3), (1, 17), (17, 1), (7, 5), (8, 8), (9, 9), (15, 16), (16, 15), (31, 33),
                 (53, 37), (64, 48), (97, 61)]:
        yield "%dx%d" % (w, h), formula(w, h, 3), formula(w, h, 1)
    for i, path in enumerate(xrays[::25]):
        with Image.open(path) as im:
            grey = np.asarray(im.convert("L").crop((i % 7, i % 5, i % 7 + 200 + i % 23, i % 5 + 180 + i % 19)))
        tint = np.stack([grey, np.roll(grey, 3, 0), 255 - np.roll(grey, 5, 1)], 2)
        yield "x%d" % i, tint, grey


def write_all(folder, xrays):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "digests.txt"), "w") as index:
        for picture, colour, grey in pictures(xrays):
            for name, data in kinds(colour, grey):
                try:
                    want = digest(read(data))
                except (OSError, SyntaxError):
                    want = "refused"
                file = "%s_%s.jpg" % (picture, name)
                with open(os.path.join(folder, file), "wb") as f:
                    f.write(data)
                index.write("%s %s\n" % (file, want))
        for i, path in enumerate(xrays):  # whole X-rays as people re-encode them
            with Image.open(path) as im:
                grey = np.asarray(im.convert("L"))
            options = [["-quality", "75"], ["-quality", "92", "-progressive"], ["-quality", "50", "-arithmetic"]][i % 3]
            data = cjpeg(grey if i % 2 else np.stack([grey] * 3, 2), *options)
            file = "whole_%d.jpg" % i
            with open(os.path.join(folder, file), "wb") as f:
                f.write(data)
            index.write("%s %s\n" % (file, digest(read(data))))


def found(folder):
    out = []
    for base, _, names in sorted(os.walk(folder)):
        if "mask" not in base.lower():
            out += [os.path.join(base, n) for n in sorted(names) if n.lower().endswith((".png", ".jpg", ".jpeg"))]
    return out


if len(sys.argv) > 2 and sys.argv[1] == "--all":
    write_all(sys.argv[2], found(sys.argv[3]) if len(sys.argv) > 3 else [])
else:
    write_small()
