"""The other sides of `bench engines`: engines.py ENGINE THREADS FOLDER, ENGINE one of torch, torch_channels_last,
onnxruntime,
openvino. torchvision's networks with random weights; the engines read them from ONNX files in FOLDER, which `export`
makes.
Words: export NETWORK BATCH, load NETWORK BATCH [bfloat16], pass, drop."""

import gc
import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
from measure import memory_mark, serve  # noqa: E402

warnings.filterwarnings("ignore")
engine, threads, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
run = None


def side(name):
    return 299 if name == "inception_v3" else 224


def network(name):
    from vision import torchvision
    more = {"init_weights": False, "transform_input": False} if name == "inception_v3" else {}
    return getattr(torchvision.models, name)(weights=None, **more).eval()


def file_of(name, batch):
    return folder / f"{name}_{batch}.onnx"


def export(name, batch):
    import torch
    if not file_of(name, batch).exists():
        x = torch.rand(int(batch), 3, side(name), side(name))
        torch.onnx.export(network(name), (x,), str(file_of(name, batch)), dynamo=False, opset_version=17)
    return 0


def torch_pass(name, batch, dtype, channels_last):
    import torch
    torch.set_num_threads(threads)
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = network(name).to(memory_format=form, dtype=getattr(torch, dtype))
    x = torch.rand(batch, 3, side(name), side(name)).to(memory_format=form, dtype=getattr(torch, dtype))

    def forward():
        with torch.inference_mode():
            return model(x)
    return forward


def onnxruntime_pass(name, batch, dtype):
    import numpy
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file_of(name, batch)), options, providers=["CPUExecutionProvider"])
    x = {session.get_inputs()[0].name: numpy.random.rand(batch, 3, side(name), side(name)).astype("float32")}
    return lambda: session.run(None, x)


def openvino_pass(name, batch, dtype):
    import numpy
    import openvino
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    compiled = openvino.Core().compile_model(str(file_of(name, batch)), "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision})
    request = compiled.create_infer_request()
    x = numpy.random.rand(batch, 3, side(name), side(name)).astype("float32")
    return lambda: request.infer({0: x})


def load(name, batch, dtype="float32"):
    global run
    batch = int(batch)
    if engine.startswith("torch"):
        run = torch_pass(name, batch, dtype, engine.endswith("last"))
    else:
        run = {"onnxruntime": onnxruntime_pass, "openvino": openvino_pass}[engine](name, batch, dtype)
    return 0


def timed():
    """Seconds, and seconds of processor time."""
    start, processor = time.perf_counter(), time.process_time()
    run()
    return f"{time.perf_counter() - start} {time.process_time() - processor}"


def drop():
    global run
    run = None
    gc.collect()
    return memory_mark()


def hello():
    return __import__(engine.split("_")[0]).__version__.split("+")[0].split("-")[0]


os.environ["OMP_NUM_THREADS"] = str(threads)
serve(hello=hello, export=export, load=load, drop=drop, **{"pass": timed})
