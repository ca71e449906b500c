"""Accuracy on CIFAR-10 of the pretrained ResNet-20 in int8, by ONNX Runtime and compiled.

Usage: python benchmarks/quantize.py --weights shared/pretrained/resnet20-cifar10.safetensors

Calibration images come from the training set, accuracy from all 10,000 of the test set. With
--keep 0.3 the network is cut first, and repaired by `recover="reconstruct"` on training images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import secateur
from pretrained import MEAN, STD
from secateur import data, machine, nets
from secateur.compiler.pipeline import compile_network
from secateur.data.images import ImageData
from secateur.export import to_onnx
from secateur.quantization.ranges import METHODS

CUT = 4096
"""Images that a cut network is repaired on."""


def images(cifar: ImageData, count: int, seed: int) -> torch.Tensor:
    """Return training images, normalised, [count, 3, 32, 32]."""
    chosen = torch.randperm(len(cifar.train.labels), generator=torch.Generator().manual_seed(seed))
    pixels = cifar.train.images[chosen[:count]].permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (cifar.mean, cifar.std))
    return ((pixels - mean) / std).contiguous()


def answers(run: Callable[[np.ndarray], np.ndarray], cifar: ImageData) -> np.ndarray:
    """Return the class that a network gives each test image."""
    batches = (images.contiguous().numpy() for images, _ in cifar.evaluation("test"))
    return np.concatenate([run(batch).argmax(1) for batch in batches])


def accuracy(given: np.ndarray, cifar: ImageData) -> float:
    """Return the share of test images that were given their class, in percent."""
    labels = np.concatenate([labels.numpy() for _, labels in cifar.evaluation("test")])
    return round(100 * float((given == labels).mean()), 2)


def theirs(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return an ONNX file as a function, computed by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (name,) = (port.name for port in session.get_inputs())
    return lambda batch: session.run(None, {name: batch})[0]


def ours(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return an ONNX file as a function, compiled."""
    return compile_network(content).engine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--keep", type=float, default=1.0, help="cut to this keep ratio first")
    parser.add_argument("--images", type=int, default=512, help="of each calibration set")
    parser.add_argument("--sets", type=int, default=3, help="of calibration images")
    parser.add_argument(
        "--ranges", nargs="+", default=["best"], choices=["best", *METHODS], help="how chosen"
    )
    given = parser.parse_args()
    cifar = replace(data.load("cifar10", data_dir=given.data_dir), mean=MEAN, std=STD)
    model = nets.build("resnet20")
    model.load_state_dict(load_file(given.weights))
    model.eval()
    if given.keep < 1:
        some = images(cifar, CUT, 0)
        model, _ = secateur.prune(model, keep=given.keep, data=some, recover="reconstruct")
    content = to_onnx(model.eval(), torch.zeros(1, 3, 32, 32))
    before = accuracy(answers(theirs(content), cifar), cifar)
    record = {"net": "resnet20", "keep": given.keep, "fp32": before, "int8": {}}
    for ranges in given.ranges:
        found, compiled, other, errors, seconds = [], [], [], [], []
        for seed in range(given.sets):
            start = time.perf_counter()
            some = images(cifar, given.images, seed)
            made = secateur.quantize(content, some, ranges=None if ranges == "best" else ranges)
            seconds.append(time.perf_counter() - start)
            errors.append(made.error)
            both = [answers(run, cifar) for run in (theirs(made.content), ours(made.content))]
            found.append(accuracy(both[0], cifar))
            compiled.append(accuracy(both[1], cifar))
            other.append(int((both[0] != both[1]).sum()))
        record["int8"][ranges] = {
            "test accuracy": found,
            "compiled": compiled,
            "other answers when compiled": other,
            "mean": round(float(np.mean(found)), 2),
            "error of the outputs": round(float(np.mean(errors)), 4),
            "seconds": round(float(np.mean(seconds)), 1),
        }
        print(ranges, record["int8"][ranges], flush=True)
    record |= {
        "bytes": {"fp32": len(content), "int8": len(made.content)},
        "images": given.images,
        "versions": machine.versions(),
        "hardware": machine.describe(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
