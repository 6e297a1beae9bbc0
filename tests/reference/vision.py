"""Imports torchvision where its compiled operators are absent (a wheel made for another torch). The networks need none
of them, but torchvision describes some of them while it is imported, so they are declared first."""
import torch

try:
    torch.ops.torchvision.nms
except AttributeError:
    try:
        import torchvision
    except RuntimeError:
        import sys
        for name in [m for m in sys.modules if m.startswith("torchvision")]:
            del sys.modules[name]
        _lib = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            _lib.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision  # noqa: E402, F401

HIDDEN = {
    "mobilenet_v2": 512,
    "efficientnet_b0": 512,
    "densenet121": 256,
    "resnet50": 512,
    "inception_v3": 256,
    "vgg19": 256,
}


def thesis_network(name, classes=3):
    """torchvision's network with the thesis' head: fc1, relu, dropout, fc2 in place of the classifier."""
    from collections import OrderedDict
    nn = torch.nn
    extra = {"init_weights": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **extra)

    def head(n):
        h = HIDDEN[name]
        return nn.Sequential(
            OrderedDict(fc1=nn.Linear(n, h), relu=nn.ReLU(), dropout=nn.Dropout(0.5), fc2=nn.Linear(h, classes))
        )
    if name == "squeezenet1_0":
        net.classifier[1] = nn.Conv2d(512, classes, 1)
    elif name == "vgg19":
        net.classifier = head(25088)
    elif name == "densenet121":
        net.classifier = head(net.classifier.in_features)
    elif name in ("resnet50", "inception_v3"):
        net.fc = head(net.fc.in_features)
        if name == "inception_v3":
            net.AuxLogits.fc = nn.Linear(768, classes)
    else:
        net.classifier = head(net.classifier[1].in_features)
    return net
