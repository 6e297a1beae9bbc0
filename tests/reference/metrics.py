#!/usr/bin/env python3
"""Writes tests/reference/metrics.json: labels, probabilities and what scikit-learn says of them.

Run with Debian's python3-sklearn (1.2.1). Cases: plain, many ties, a class that is absent from the labels,
a class that is never predicted, one class only, two classes, one sample, ten classes.
"""
import json
import os
import warnings

import numpy as np
import sklearn
from sklearn import metrics as m

warnings.filterwarnings("ignore")
rng = np.random.default_rng(7)


def probabilities(labels, k, sharp, step=None):
    z = rng.normal(size=(len(labels), k))
    z[np.arange(len(labels)), labels] += sharp
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    if step:  # coarse scores: many ties, rows no longer sum to 1
        p = np.round(p / step) * step
    return p


def auroc(labels, p, c):
    y = (labels == c).astype(int)
    return float(m.roc_auc_score(y, p[:, c])) if 0 < y.sum() < len(y) else None


def case(name, labels, k, p):
    labels = np.asarray(labels)
    predicted = p.argmax(1)
    all_labels = list(range(k))
    pr, rc, f1, support = m.precision_recall_fscore_support(labels, predicted, labels=all_labels, zero_division=0)
    out = dict(name=name, labels=labels.tolist(), probabilities=p.tolist(), classes=k,
               confusion=m.confusion_matrix(labels, predicted, labels=all_labels).tolist(),
               accuracy=float(m.accuracy_score(labels, predicted)),
               balanced_accuracy=float(m.balanced_accuracy_score(labels, predicted)),
               precision=pr.tolist(), recall=rc.tolist(), f1=f1.tolist(), support=support.tolist(),
               auroc=[auroc(labels, p, c) for c in all_labels])
    for average in ("micro", "macro", "weighted"):
        a, b, c, _ = m.precision_recall_fscore_support(labels, predicted, labels=all_labels, average=average,
                                                       zero_division=0)
        out[average] = [float(a), float(b), float(c)]
    if all(v is not None for v in out["auroc"]):
        onehot = np.eye(k)[labels]
        out["auroc_macro"] = float(m.roc_auc_score(onehot, p, average="macro"))
        out["auroc_weighted"] = float(m.roc_auc_score(onehot, p, average="weighted"))
    return out


cases = []
y = rng.integers(0, 3, 120)
cases.append(case("plain", y, 3, probabilities(y, 3, 1.5)))
cases.append(case("ties", y, 3, probabilities(y, 3, 1.0, step=0.25)))
y = rng.integers(0, 2, 60)
cases.append(case("a class is absent", y, 3, probabilities(y, 3, 1.0)))
p = probabilities(y, 3, 1.0)
p[:, 2] = 0
cases.append(case("a class is absent and never predicted", y, 3, p))
y = np.array([0, 0, 1, 1, 2, 2, 2, 0])
p = probabilities(y, 3, 0.5)
p[:, 1] = 0
cases.append(case("a class is never predicted", y, 3, p))
cases.append(case("one class only", np.zeros(10, int), 3, probabilities(np.zeros(10, int), 3, 0.3)))
y = rng.integers(0, 2, 50)
cases.append(case("two classes", y, 2, probabilities(y, 2, 0.7)))
cases.append(case("one sample", np.array([1]), 3, probabilities(np.array([1]), 3, 0.7)))
y = rng.integers(0, 10, 300)
cases.append(case("ten classes", y, 10, probabilities(y, 10, 2.0)))
y = rng.integers(0, 3, 40)
cases.append(case("all scores equal", y, 3, np.full((40, 3), 1 / 3)))

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics.json")
with open(path, "w") as f:
    json.dump(dict(sklearn=sklearn.__version__, cases=cases), f)
print(path, len(cases), "cases, scikit-learn", sklearn.__version__)
