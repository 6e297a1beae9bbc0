"""Small DICOM files of every kind that is read, and what pydicom's apply_modality_lut and apply_voi_lut make of
them: tests/reference/dicom/*.dcm and expected.lua. Needs pydicom, numpy, pillow, pylibjpeg (with -libjpeg), and
Debian's dcmtk, whose programs compress.  python tests/reference/dicom.py
With a folder of DICOM files (pydicom's own: pydicom.data's test_files, and those of pydicom-data):
  python tests/reference/dicom.py FOLDER... > cases.lua
writes for each file the SHA-256 of the values (float64) and of the bytes that they become, or that pydicom does not
read it; tests/reference/dicom_compare.lua compares. JPEG Baseline is
decoded by Pillow, as elsewhere in this library."""
import hashlib, os, subprocess, sys, warnings
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, generate_uid

warnings.filterwarnings("ignore")
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dicom")


def picture(bits, signed, h=18, w=21):
    i = np.arange(h * w).reshape(h, w)
    v = (i * 2654435761 >> 7) % (1 << bits)  # every bit is used
    v = np.where(i % 3 == 0, v, i * ((1 << bits) - 1) // (h * w - 1))
    return (v - (1 << bits - 1) if signed else v).astype(f"{'int' if signed else 'uint'}{8 if bits <= 8 else 16}")


def make(name, bits=16, signed=False, syntax=ExplicitVRLittleEndian, photometric="MONOCHROME2", rgb=False, **more):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    meta.TransferSyntaxUID = syntax
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID = ds.SeriesInstanceUID = generate_uid(entropy_srcs=["study"])
    ds.Modality, ds.PatientID, ds.PatientName, ds.ViewPosition = "CR", "ID" + name, "Doe^" + name, "PA"
    ds.ImagerPixelSpacing = [0.14, 0.143]
    x = picture(bits, signed)
    if rgb:
        x = np.stack([x, x[::-1], x[:, ::-1]], -1)
        ds.PlanarConfiguration = more.pop("planar", 0)
    ds.Rows, ds.Columns, ds.SamplesPerPixel = x.shape[0], x.shape[1], 3 if rgb else 1
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = x.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    for key, value in more.items():
        setattr(ds, key, value)
    if rgb and ds.PlanarConfiguration:
        x = x.transpose(2, 0, 1)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    ds.PixelData = x.astype(x.dtype.newbyteorder(order)).tobytes()
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"
    ds["PixelData"].VR = "OB" if x.dtype.itemsize == 1 and syntax != ImplicitVRLittleEndian else "OW"
    path = os.path.join(HERE, name + ".dcm")
    pydicom.dcmwrite(path, ds, enforce_file_format=True, little_endian=order == "<", implicit_vr=syntax.is_implicit_VR)
    return path


def lut(first, bits, n, signed=False):
    item = Dataset()
    item.add_new(0x00283002, "SS" if signed else "US", [n, first, bits])
    item.add_new(0x00283006, "US", [int(v) for v in (np.linspace(0, 1, n) ** 2 * ((1 << bits) - 1)).astype(int)])
    return pydicom.Sequence([item])


def squeeze(program, source, name, *options):
    target = os.path.join(HERE, name + ".dcm")
    subprocess.run([program, *options, os.path.join(HERE, source + ".dcm"), target], check=True)


def files():
    os.makedirs(HERE, exist_ok=True)
    window = dict(WindowCenter=[1900, 700], WindowWidth=[2600.5, 300])
    make("plain8", 8)
    make("plain12", 12)
    make("plain16", 16)
    make("signed16", 16, True, RescaleSlope="1.25", RescaleIntercept="-1024", WindowCenter=40, WindowWidth=9000)
    make("signed12", 12, True, **window)
    make("inverted10", 10, photometric="MONOCHROME1", WindowCenter=550, WindowWidth=1024)
    make("windows12", 12, **window)
    make("exact12", 12, VOILUTFunction="LINEAR_EXACT", **window)
    make("sigmoid12", 12, VOILUTFunction="SIGMOID", **window)
    make("rescaled12", 12, RescaleSlope="3.774114", RescaleIntercept="0.000061", WindowCenter=1000, WindowWidth=2000)
    make("negative12", 12, RescaleSlope="-1", RescaleIntercept="4095", **window)
    make("modality_lut12", 12, ModalityLUTSequence=lut(100, 16, 2000), WindowCenter=30000, WindowWidth=50000)
    make("voi_lut12", 12, True, VOILUTSequence=lut(-5, 12, 2000, True), **window)
    make("voi_lut8", 8, VOILUTSequence=lut(3, 8, 200))
    make("implicit12", 12, syntax=ImplicitVRLittleEndian, **window)
    make("big_endian12", 12, syntax=ExplicitVRBigEndian, **window)
    make("rgb8", 8, rgb=True, photometric="RGB")
    make("planes8", 8, rgb=True, photometric="RGB", planar=1)
    squeeze("dcmcjpeg", "windows12", "jpeg_lossless12", "+e1")
    squeeze("dcmcjpeg", "signed16", "jpeg_lossless16", "+e1")
    squeeze("dcmcjpeg", "plain8", "jpeg_baseline8", "+eb", "+q", "80")
    squeeze("dcmcjpls", "windows12", "jpeg_ls12", "+el")
    squeeze("dcmcjpls", "inverted10", "jpeg_ls10", "+el")
    squeeze("dcmcrle", "signed16", "rle16")
    squeeze("dcmcrle", "planes8", "rle_rgb8")
    squeeze("dcmconv", "windows12", "deflated12", "+td")


def values_of(path):
    ds = pydicom.dcmread(path)
    if ds.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit:
        ds.pixel_array_options(decoding_plugin="pillow")
    x = ds.pixel_array
    y = apply_voi_lut(apply_modality_lut(x, ds), ds) if x.ndim == 2 else x
    return np.ascontiguousarray(y.astype("<f8")), ds


def line(path, name):
    try:
        y, ds = values_of(path)
    except Exception:  # what pydicom does not read
        return f'  {{ name = {name!r}, refused = true }},'
    some = ", ".join(repr(float(v)) for v in y.ravel()[:: max(1, y.size // 3)][1:3])
    return (f'  {{ name = {name!r}, h = {y.shape[0]}, w = {y.shape[1]},\n    some = {{ {some} }},\n'
            f'    sha256 = "{hashlib.sha256(y.tobytes()).hexdigest()}" }},')


if __name__ == "__main__":
    if len(sys.argv) == 1:
        files()
        with open(os.path.join(HERE, "expected.lua"), "w") as f:
            f.write("-- Written by tests/reference/dicom.py with pydicom " + pydicom.__version__ + ".\nreturn {\n")
            for name in sorted(n for n in os.listdir(HERE) if n.endswith(".dcm")):
                f.write(line(os.path.join(HERE, name), name).replace("'", '"') + "\n")
            f.write("}\n")
    else:
        print("return {")
        for root in sys.argv[1:]:
            for folder, _, names in sorted(os.walk(root)):
                for name in sorted(names):
                    with open(os.path.join(folder, name), "rb") as f:
                        if f.read(132)[128:] == b"DICM":
                            print(line(f.name, f.name).replace("'", '"'))
        print("}")
