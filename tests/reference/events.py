"""The bytes of TensorBoard event records, by PyPI's tensorboard: what tests/events_tensorboard.lua pins.

    events.py              prints them
    events.py check RUN    compares what TensorBoard's own reader finds in a run's event files with its metrics.jsonl
"""
import io
import sys


def golden():
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter
    event, summary = event_pb2.Event, summary_pb2.Summary

    def record(e):
        out = io.BytesIO()
        RecordWriter(out).write(e.SerializeToString())
        return out.getvalue().hex()

    def value(**fields):
        return summary(value=[summary.Value(**fields)])

    png = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000020000000308020000003a" + "00" * 10)
    text = tensor_pb2.TensorProto(
        dtype=7,
        string_val=[b"lr = 0.1"],
        tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
    )
    about = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text"))
    print("version", record(event(wall_time=1.5, file_version="brain.Event:2")))
    print("scalar", record(event(wall_time=2.25, step=3, summary=value(tag="loss/train", simple_value=0.75))))
    print(
        "start",
        record(event(wall_time=4.0, step=300, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))),
    )
    print(
        "image",
        record(
            event(
                wall_time=1.0,
                step=1,
                summary=value(
                    tag="maps", image=summary.Image(height=3, width=2, colorspace=3, encoded_image_string=png)
                ),
            )
        ),
    )
    print(
        "text",
        record(event(wall_time=1.0, step=1, summary=value(tag="config/text_summary", metadata=about, tensor=text))),
    )
    print("big", record(event(wall_time=1.0, step=2**40 + 5, summary=value(tag="x", simple_value=-1e30))))


def check(run):
    import json
    import struct
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    reader = EventAccumulator(run + "/events", size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    reader.Reload()
    tags = reader.Tags()
    records = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    failed = 0
    for tag, key in (
        ("loss/train", "train_loss"),
        ("loss/val", "val_loss"),
        ("accuracy/train", "train_accuracy"),
        ("accuracy/val", "val_accuracy"),
        ("lr", "lr"),
    ):
        found = [(e.step, e.value) for e in reader.Scalars(tag)]
        want = [(r["epoch"], struct.unpack("f", struct.pack("f", r[key]))[0]) for r in records if r["step"] == "fit"]
        failed += found != want
        print(
            "%-16s %d epochs: %s"
            % (tag, len(found), "equal" if found == want else "FAILED: %s, expected %s" % (found, want))
        )
    other = len(tags["images"]) > 0 and len(tags["tensors"]) > 0
    print(
        "%-16s %d pictures, %d texts%s" % ("", len(tags["images"]), len(tags["tensors"]), "" if other else ": FAILED")
    )
    return failed + (not other)


if sys.argv[1:2] == ["check"]:
    sys.exit(check(sys.argv[2]) > 0)
golden()
