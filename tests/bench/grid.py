"""The grid search as the thesis' scripts did it: a loop over cells, each trained from its start, the best weights
copied aside.

    grid.py DIR NETWORK DEPTH THREADS      prints one line: seconds and every cell's losses and validation accuracies

Images, labels and the order of every epoch are those that grid_work.lua wrote, the initial weights those of the same
seed.
"""

import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import vision

folder, name, depth, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
GRID = {
    "squeezenet1_0": dict(
        lr=[0.001, 0.01, 0.05],
        step=[5, 8],
        hidden=[0],
        epochs=[7, 7, 12, 12],
        opened=[[], range(9, 13), range(7, 13), range(4, 13)],
    ),
    "vgg19": dict(
        lr=[0.001, 0.01],
        step=[5, 7],
        hidden=[1024, 256],
        epochs=[10, 10, 15, 15],
        opened=[[], range(28, 37), range(19, 37), range(10, 37)],
    ),
}[name]
BATCH = 8
x = {s: torch.from_numpy(np.load(folder / (name + "_x_" + s + ".npy"))) for s in ("train", "val")}
y = {s: torch.from_numpy(np.load(folder / (name + "_y_" + s + ".npy"))) for s in ("train", "val")}
orders = json.load(open(folder / (name + "_orders.json")))


def build(hidden):
    vision.HIDDEN[name] = hidden
    torch.manual_seed(42)
    net = vision.thesis_network(name)
    for p in net.parameters():
        p.requires_grad = False
    parts = [net.classifier] + [net.features[i] for i in GRID["opened"][depth]]
    for part in parts:
        for p in part.parameters():
            p.requires_grad = True
    return net


def train(net, lr, step, epochs):
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step, 0.1)
    cross_entropy = torch.nn.CrossEntropyLoss()
    best, best_accuracy, losses, accuracies = copy.deepcopy(net.state_dict()), -1.0, [], []
    torch.manual_seed(42)
    for epoch in range(epochs):
        net.train()
        order, total = orders[epoch], 0.0
        for at in range(0, len(order), BATCH):
            index = torch.tensor(order[at:at + BATCH]) - 1
            out = net(x["train"][index])
            loss = cross_entropy(out, y["train"][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        schedule.step()
        losses.append(total / len(order))
        net.eval()
        hits = 0
        with torch.no_grad():
            for at in range(0, len(x["val"]), BATCH):
                hits += (net(x["val"][at:at + BATCH]).argmax(1) == y["val"][at:at + BATCH]).sum().item()
        accuracies.append(hits / len(x["val"]))
        if accuracies[-1] > best_accuracy:
            best_accuracy, best = accuracies[-1], copy.deepcopy(net.state_dict())
    net.load_state_dict(best)
    return losses, accuracies


cells = {}
began = time.perf_counter()
for lr in GRID["lr"]:
    for step in GRID["step"]:
        for hidden in GRID["hidden"]:
            losses, accuracies = train(build(hidden), lr, step, GRID["epochs"][depth])
            cells["depth %d lr %g step %d hidden %d" % (depth, lr, step, hidden)] = dict(
                loss=losses, accuracy=accuracies
            )
print(json.dumps(dict(seconds=time.perf_counter() - began, cells=cells)))
