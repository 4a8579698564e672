"""PyTorch's side of `training.py`; run by another interpreter, imports nothing else.

Reads a network, a batch size and a number of steps from the command line, prints
seconds per step.
"""

import json
import sys
import time

import torch
from torch import nn

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STAGES = (64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3


def normed(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def classified(layers: list[nn.Module], features: int) -> nn.Sequential:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 10)
    return nn.Sequential(*layers, *head)


def mobilenet() -> nn.Sequential:
    layers = normed(3, WIDTHS[0], 3)
    for before, after, stride in zip(WIDTHS, WIDTHS[1:], STRIDES, strict=False):
        layers += normed(before, before, 3, stride, groups=before)
        layers += normed(before, after, 1)
    return classified(layers, WIDTHS[-1])


def vgg16() -> nn.Sequential:
    layers, before = [], 3
    for stage in STAGES:
        for after in stage:
            layers += normed(before, after, 3)
            before = after
        layers += [nn.MaxPool2d(2)]
    return classified(layers, before)


def main(network: str, batch: int, steps: int) -> list[float]:
    model = {"mobilenet": mobilenet, "vgg16": vgg16}[network]()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


if __name__ == "__main__":
    network, batch, steps = sys.argv[1:]
    print(json.dumps(main(network, int(batch), int(steps))))
