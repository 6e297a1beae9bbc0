"""The same training as training.lua by PyTorch, and the comparison: training.py OUT NETWORK ...

NCHW on the same libtorch must give the same loss to the last bit for the first 20 steps. Channels_last may be no
further
from that than PyTorch's own channels_last run is. The first batch is also read with Pillow and must equal ours.
Two mutants must fail: the batches in reverse order, and momentum 0.8. Writes OUT/NETWORK.csv with all losses.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from vision import thesis_network  # noqa: E402

out, networks, threads = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
torch.set_num_threads(threads)


def read_losses(path):
    return [float(line) for line in open(path)]


def read_batches(size):
    folder = out / ("batches%d" % size)
    n = len(list(folder.glob("x*.npy")))
    return [
        (torch.from_numpy(np.load(folder / ("x%d.npy" % k))), torch.from_numpy(np.load(folder / ("y%d.npy" % k))))
        for k in range(n)
    ], folder


def picture(path, size, resize):
    im = Image.open(path).convert("RGB")
    w, h = im.size
    short, long = (w, h) if w <= h else (h, w)
    new = (resize, int(resize * long / short)) if w <= h else (int(resize * long / short), resize)
    im = im.resize(new, Image.BILINEAR) if (w, h) != new else im
    left, top = int(round((new[0] - size) / 2.0)), int(round((new[1] - size) / 2.0))
    a = np.asarray(im.crop((left, top, left + size, top + size)))
    return torch.from_numpy(a.copy()).permute(2, 0, 1).float().div(255)


def train(name, batches, channels_last=False, momentum=0.9):
    net = thesis_network(name)
    net.load_state_dict(torch.load(out / (name + ".pt"), weights_only=True))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=momentum)
    torch.manual_seed(7)
    losses = []
    for x, y in batches:
        answer = net(x.contiguous(memory_format=layout))
        cross = torch.nn.functional.cross_entropy
        loss = cross(answer[0], y) + 0.4 * cross(answer[1], y) if isinstance(answer, tuple) else cross(answer, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def furthest(a, b):
    return max(abs(p - q) for p, q in zip(a[:20], b[:20]))


failed = passed = 0


def verdict(ok):
    global failed, passed
    failed, passed = failed + (not ok), passed + ok
    return "ok" if ok else "FAILED"


print("torch %s, %d threads" % (torch.__version__, threads))
for name in networks:
    size, resize = (299, 299) if name == "inception_v3" else (224, 256)
    batches, folder = read_batches(size)
    paths = [line.rstrip("\n") for line in open(folder / "files.txt")][:len(batches[0][0])]
    same = all(torch.equal(picture(p, size, resize), x) for p, x in zip(paths, batches[0][0]))
    print("%-16s first batch read with Pillow: %s" % (name, verdict(same)))
    ours, ours_cl = read_losses(out / (name + ".nchw.txt")), read_losses(out / (name + ".channels_last.txt"))
    theirs, theirs_cl = train(name, batches), train(name, batches, channels_last=True)
    equal = sum(a == b for a, b in zip(ours[:20], theirs[:20]))
    print("%-16s NCHW: %d of %d losses equal to the last bit, furthest %.3g: %s"
          % (name, equal, len(ours[:20]), furthest(ours, theirs), verdict(equal == len(ours[:20]))))
    a, b = furthest(ours_cl, theirs), furthest(theirs_cl, theirs)
    print("%-16s channels_last: ours %.3g from NCHW, PyTorch's own %.3g: %s" % (name, a, b, verdict(a <= b)))
    few = batches[:6]
    print("%-16s mutant, batches reversed: %s" % (name, verdict(train(name, few[::-1]) != theirs[:6])))
    print("%-16s mutant, momentum 0.8: %s" % (name, verdict(train(name, few, momentum=0.8) != theirs[:6])))
    with open(out / (name + ".csv"), "w") as f:
        f.write("step,ours_nchw,pytorch_nchw,ours_channels_last,pytorch_channels_last\n")
        for k, row in enumerate(zip(ours, theirs, ours_cl, theirs_cl)):
            f.write("%d,%s\n" % (k + 1, ",".join("%.9g" % v for v in row)))
print("parity training: %d passed, %d failed" % (passed, failed))
sys.exit(failed > 0)
