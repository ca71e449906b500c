"""What the order of channels is worth to zeros in fours: the pretrained ResNet-20, cut in one shot.

Usage: python benchmarks/reorder.py --weights shared/pretrained/resnet20-cifar10.safetensors

It is cut by magnitude, as it is and with its channels reordered, and its batch norms are
recalibrated on training images; accuracy is of all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

import secateur
from pretrained import MEAN, STD
from quantize import images
from secateur import data, machine, nets
from secateur.measure.accuracy import evaluate
from secateur.study.task import ACCURACY

IMAGES = 1024
"""Training images that batch norms are recalibrated on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.6, 0.5, 0.4])
    given = parser.parse_args()
    cifar = replace(data.load("cifar10", data_dir=given.data_dir), mean=MEAN, std=STD)
    model = nets.build("resnet20")
    model.load_state_dict(load_file(given.weights))
    model.eval()
    some = images(cifar, IMAGES, 0)
    found: dict[str, dict[str, float]] = {}
    for name, net in (("as it is", model), ("reordered", secateur.reorder(model, some[:2]).model)):
        for keep in given.keep:
            budget = secateur.Budget(keep, pattern="dot4")
            cut, _ = secateur.prune(net, keep=budget, data=some, recover="batchnorm")
            accuracy = evaluate(cut.eval(), cifar.evaluation("test"), ACCURACY.function)
            found.setdefault(f"{keep:g}", {})[name] = round(accuracy, 2)
            print(f"{keep:g}", name, round(accuracy, 2), flush=True)
    record = {"test accuracy": found, "versions": machine.versions()}
    print(json.dumps(record | {"hardware": machine.describe()}, indent=2))


if __name__ == "__main__":
    main()
