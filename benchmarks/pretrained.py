"""Accuracy on CIFAR-10 of the pretrained ResNet-20 (akamaster/pytorch_resnet_cifar10): 91.73 %.

Usage: python benchmarks/pretrained.py --weights shared/pretrained/resnet20-cifar10.safetensors
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from secateur import data, machine, nets

# What its authors normalised pixels by, after scaling them to [0, 1]: ImageNet's figures.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def accuracy(weights: Path, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Return the percentage of images that the weights classify rightly, computed in float32."""
    model = nets.build("resnet20")
    model.load_state_dict(load_file(weights))
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            model.to(images.device)
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return 100 * right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    given = parser.parse_args()
    if not given.weights.is_file():
        parser.error(f"there is no file {given.weights}")

    cifar = data.load("cifar10", data_dir=given.data_dir, device=machine.device(given.device))
    cifar = replace(cifar, mean=MEAN, std=STD)
    start = time.perf_counter()
    percent = accuracy(given.weights, cifar.evaluation("test"))
    record = {
        "net": "resnet20",
        "test accuracy": round(percent, 2),
        "unit": "%",
        "images": len(cifar.test.labels),
        "seconds": round(time.perf_counter() - start, 2),
        "precision": "fp32",
        "versions": machine.versions(),
        "hardware": machine.describe(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
