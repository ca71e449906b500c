"""What the order of channels is worth to zeros in blocks, cut in one shot by magnitude.

Usage: python benchmarks/reorder.py [--weights shared/pretrained/resnet20-cifar10.safetensors]

With --weights: the pretrained ResNet-20 in fours, as it is and with its channels reordered; its
batch norms are recalibrated on training images, and accuracy is of all 10,000 test images. Else:
MLPs of two hidden layers of 256, trained on the digits of scikit-learn from some seeds, in blocks
of 16x4, as they are and with units reordered for fours of inputs, or for sixteen outputs too.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file
from torch import nn

import secateur
from pretrained import MEAN, STD
from quantize import images
from secateur import data, machine, nets
from secateur.data.images import ImageData
from secateur.measure.accuracy import evaluate
from secateur.study.task import ACCURACY

IMAGES = 1024
"""Training images that batch norms are recalibrated on."""

EPOCHS, RATE, SEEDS = 40, 0.05, 5

Found = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--keep", type=float, nargs="+")
    given = parser.parse_args()
    if given.weights:
        found = pretrained(given.weights, given.data_dir, given.keep or [0.7, 0.6, 0.5, 0.4])
    else:
        found = digits(given.keep or [0.5, 0.3, 0.2])
    record = {"test accuracy": found, "versions": machine.versions()}
    print(json.dumps(record | {"hardware": machine.describe()}, indent=2))


def pretrained(weights: Path, folder: Path | None, keeps: list[float]) -> Found:
    cifar = replace(data.load("cifar10", data_dir=folder), mean=MEAN, std=STD)
    model = nets.build("resnet20")
    model.load_state_dict(load_file(weights))
    model.eval()
    some = images(cifar, IMAGES, 0)
    found: Found = {}
    for name, net in (("as it is", model), ("reordered", secateur.reorder(model, some[:2]).model)):
        for keep in keeps:
            budget = secateur.Budget(keep, pattern="dot4")
            cut, _ = secateur.prune(net, keep=budget, data=some, recover="batchnorm")
            accuracy = evaluate(cut.eval(), cifar.evaluation("test"), ACCURACY.function)
            found.setdefault(f"{keep:g}", {})[name] = round(accuracy, 2)
            print(f"{keep:g}", name, round(accuracy, 2), flush=True)
    return found


def digits(keeps: list[float]) -> Found:
    """Return the mean accuracy over some seeds."""
    all_of_them = data.load("digits")
    each: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        net = trained(all_of_them, seed)
        example = torch.zeros(2, 1, 8, 8)
        ways = {
            "as it is": net,
            "fours": secateur.reorder(net, example).model,
            "sixteens": secateur.reorder(net, example, rows=16).model,
        }
        for name, way in ways.items():
            plan = secateur.prunable(way, pattern="16x4", include_first=True)
            for keep in keeps:
                cut, _ = secateur.prune(way, keep=keep, pattern="16x4", plan=plan)
                accuracy = evaluate(cut.eval(), all_of_them.evaluation("test"), ACCURACY.function)
                each.setdefault(f"{keep:g}", {}).setdefault(name, []).append(accuracy)
    return {
        keep: {name: round(mean(values), 2) for name, values in found.items()}
        for keep, found in each.items()
    }


def trained(images_of: ImageData, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    for epoch in range(EPOCHS):
        for x, y in images_of.epoch(64, torch.Generator().manual_seed(1000 * seed + epoch)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


if __name__ == "__main__":
    main()
