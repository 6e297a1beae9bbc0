"""LIME by lime 0.2.0.1: what lime_reference.lua and parity_lime.lua compare with.

    python perturb_lime.py --small              tests/reference/lime/: recorded masks, outputs and explanations of a
    made image
    python perturb_lime.py OUT DATA [network ...]   end to end on networks trained a little, real images and a made
    coloured one

The generator is numpy's RandomState(seed). In environment a (scikit-image 0.19.3) lime's own first draw seeds
quickshift, in
b (0.26) quickshift ignores it.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import skimage
from lime import lime_image
from lime.wrappers.scikit_image import SegmentationAlgorithm
from skimage.segmentation import mark_boundaries

HERE = Path(__file__).parent
MODES = [
    ("auto", 100000),
    ("auto", 4),
    ("highest_weights", 7),
    ("forward_selection", 9),
    ("lasso_path", 5),
    ("lasso_path", 12),
    ("none", 3),
]
PICTURES = [
    dict(),
    dict(num_features=3),
    dict(positive_only=False),
    dict(positive_only=False, num_features=10, hide_rest=True),
    dict(positive_only=False, negative_only=True, num_features=4),
    dict(positive_only=False, num_features=8, min_weight=0.01),
    dict(hide_rest=True, min_weight=0.02),
]


# ---- the small dump ----

def small_image():
    h, w = 40, 56
    y, x = np.mgrid[0:h, 0:w].astype(float)
    image = np.stack([x / w, y / h, 0.5 + 0.5 * np.sin(x / 5 + y / 9)], 2)
    return np.where((((x // 14) + (y // 10)) % 2 == 0)[..., None], image, 1 - image)


def small_classifier(images):
    """Four classes, with effects of two and three places together, so that no linear model fits it."""
    a, b, c = (
        images[:, 5:20, 5:25].mean((1, 2, 3)),
        images[:, 20:35, 10:30, 0].mean((1, 2)),
        images[:, 8:30, 35:50, 2].mean((1, 2)),
    )
    d = images[:, :, :, 1].std((1, 2))
    logits = np.stack([4 * a - 2 * b * c, 3 * b + a * d, 5 * c * d + a * b * c, 1 + 2 * d - a], 1) * 2
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def digest(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def lua(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {lua(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "{ " + ", ".join(lua(v) for v in value) + " }"
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if isinstance(value, (int, np.integer)):
        return repr(int(value))
    return json.dumps(value)


def recorded(explainer):
    """Keeps what lime draws and is answered."""
    kept = {}
    own = explainer.data_labels

    def data_labels(*args, **named):
        kept["data"], kept["labels"] = own(*args, **named)
        return kept["data"], kept["labels"]
    explainer.data_labels = data_labels
    return kept


def explain(
    image,
    classify,
    seed,
    samples,
    mode="auto",
    num_features=100000,
    hide_color=None,
    top=3,
    width=0.25,
    segmentation=None,
):
    explainer = lime_image.LimeImageExplainer(
        kernel_width=width, feature_selection=mode, random_state=np.random.RandomState(seed)
    )
    kept = recorded(explainer)
    scores, own = {}, explainer.base.explain_instance_with_data

    def each(data, labels, distances, label, *args, **named):
        result = own(data, labels, distances, label, *args, **named)
        scores[label] = (result[2], float(result[3][0]))
        return result
    explainer.base.explain_instance_with_data = each
    e = explainer.explain_instance(
        image,
        classify,
        labels=(),
        hide_color=hide_color,
        top_labels=top,
        num_features=num_features,
        num_samples=samples,
        segmentation_fn=segmentation,
    )
    labels = [
        dict(
            label=k,
            intercept=e.intercept[k],
            score=scores[k][0],
            local_prediction=scores[k][1],
            features=[f for f, _ in e.local_exp[k]],
            weights=[w for _, w in e.local_exp[k]],
        )
        for k in e.top_labels
    ]
    return e, kept, labels


def small():
    out = HERE / "lime"
    image = small_image()
    np.save(out / "image.npy", image.transpose(2, 0, 1).astype(np.float64).copy())
    cases = []
    blocks = SegmentationAlgorithm("slic", n_segments=24, compactness=5, start_label=0)
    for seed, samples, hide in ((3, 200, None), (42, 150, 0.5)):
        np.save(out / f"segments{seed}.npy", blocks(image).astype(np.uint8))
        for mode, n in MODES:
            e, kept, labels = explain(image, small_classifier, seed, samples, mode, n, hide, segmentation=blocks)
            case = dict(
                seed=seed,
                samples=samples,
                hide=hide or "segment_mean",
                mode=mode,
                num_features=n,
                labels=labels,
                pictures=[],
            )
            if (mode, n) == MODES[0]:
                np.save(out / f"masks{seed}.npy", kept["data"].astype(np.uint8))
                np.save(out / f"outputs{seed}.npy", kept["labels"])
                for options in PICTURES:
                    picture, mask = e.get_image_and_mask(e.top_labels[1], **options)
                    case["pictures"].append(
                        dict(
                            options=options,
                            image=digest(picture.transpose(2, 0, 1)),
                            mask=digest(mask.astype("<i8")),
                            wrapped=digest(mark_boundaries(picture, mask).transpose(2, 0, 1)),
                            plain=digest(mark_boundaries(picture, mask.astype(np.int32)).transpose(2, 0, 1)),
                        )
                    )
            cases.append(case)
    (out / "expected.lua").write_text(
        "-- Written by perturb_lime.py --small.\nreturn {\n" + "".join(f"  {lua(c)},\n" for c in cases) + "}\n"
    )
    print(len(cases), "explanations,", sum(f.stat().st_size for f in out.iterdir()), "bytes")


# ---- end to end ----

def networks(out, data, names):
    import torch
    import gradcam  # the same networks, images and a few steps of training
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder = out / name
        folder.mkdir(exist_ok=True)
        size = 299 if name == "inception_v3" else 224
        torch.manual_seed(1)
        build = getattr(gradcam.torchvision.models, name)
        model = build(weights=None, num_classes=3, **({"init_weights": True} if name == "inception_v3" else {}))
        model = gradcam.train(model, data, size, 1 if name == "vgg19" else 24)
        torch.save(model.state_dict(), folder / "weights.pt")
        xs = [gradcam.read(gradcam.images(data, "Test", 1)[k][0], size) for k in range(3)]
        xs += [
            gradcam.read(gradcam.made_image(), size),
            gradcam.torchvision.transforms.ToTensor()(gradcam.made_image()),
        ]  # the last one not square
        jobs = []

        def classify(batch, model=model):
            with torch.no_grad():
                return (
                    torch.softmax(model(torch.from_numpy(batch.transpose(0, 3, 1, 2)).float()), 1)
                    .numpy()
                    .astype(np.float64)
                )
        for i, x in enumerate(xs):
            np.save(folder / f"x{i}.npy", x[None].numpy())
            samples = 100
            image = x.numpy().transpose(1, 2, 0).astype(np.float64)
            e, kept, labels = explain(image, classify, 42 + i, samples)
            np.save(folder / f"segments{i}.npy", e.segments.astype(np.int64))
            np.save(folder / f"masks{i}.npy", kept["data"].astype(np.uint8))
            np.save(folder / f"outputs{i}.npy", kept["labels"])
            jobs.append(dict(image=i, seed=42 + i, samples=samples, labels=labels))
        (folder / "jobs.lua").write_text(
            f'return {{ version = "{skimage.__version__}",\n' + "".join(f"  {lua(j)},\n" for j in jobs) + "}\n"
        )
        print(name, "done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--small":
        small()
    else:
        networks(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
