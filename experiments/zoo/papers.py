"""The networks of the papers, in their CIFAR layouts, most of them narrow."""

from experiments.models import vgg
from experiments.models.alexnet import alexnet
from experiments.models.mobilenet import MobileNetV1
from experiments.models.zfnet import zfnet
from experiments.zoo.entry import linen

_CIFAR = (2, 32, 32, 3)

_FULL = {
    "paper-vgg19-bn": vgg.vgg19_bn(),
    "paper-mobilenet-1.0": MobileNetV1(),
}
_NARROW = {
    "paper-mobilenet": MobileNetV1(width=0.25),
    "paper-vgg16": vgg.vgg16(width=0.125),
    "paper-vgg16-bn": vgg.vgg16_bn(width=0.125),
    "paper-alexnet": alexnet(width=0.1),
    "paper-zfnet": zfnet(width=0.1),
}

ENTRIES = tuple(
    linen(name, network, _CIFAR, floor=0.95, trains=True, slow=name in _FULL)
    for name, network in (_NARROW | _FULL).items()
)
