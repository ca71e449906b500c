"""Accuracy on CIFAR-10 of the cut ResNet-20: quantised after training, and trained in 8 bit.

Usage: python benchmarks/quantized_training.py --weights resnet20-cifar10.safetensors

The network is cut by magnitude and fine-tuned in float32. From there it is trained on, with the
same batches and rates, once in float32, and then quantised, and once in 8 bit. Batch norms are
recalibrated, and accuracy is that of files in ONNX Runtime, on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import secateur
from accuracy_nets import GIVEN
from pretrained import MEAN, STD
from quantize import accuracy, answers, images, theirs
from secateur import data, machine, nets
from secateur.data.images import ImageData
from secateur.export import to_onnx
from secateur.pruning.selecting.masks import Masks
from secateur.training import precision_of

CALIBRATED = 512
"""Images that ranges come from."""

RECALIBRATED = 4096
"""Images that batch norms are recalibrated on."""


def files(
    cut: nn.Module, masks: Masks, few: ImageData, recipe: secateur.Recipe, seed: int
) -> dict[str, bytes]:
    """Return the networks that one cut network becomes, as ONNX files."""
    some = images(few, CALIBRATED, seed)

    def trained(model: nn.Module, part: int) -> nn.Module:
        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(outputs, labels)

        secateur.finetune(model, masks, few, loss, recipe=recipe, seed=2 * seed + part)
        return model

    def recalibrated(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        secateur.recalibrate(model, few.calibration(RECALIBRATED, 256, generator))
        return model.eval()

    first = trained(deepcopy(cut), 0)
    plain = to_onnx(recalibrated(trained(deepcopy(first), 1)), torch.zeros(1, 3, 32, 32))
    training = secateur.QuantizedTraining(first, some)
    recalibrated(trained(first, 1))
    return {
        "float32": plain,
        "quantised": secateur.quantize(plain, some).content,
        "trained in 8 bit": training.finish(some).content,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.3, 0.1], help="keep ratios")
    parser.add_argument("--pattern", default="weight", help="what is cut together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1, help="of each of the two trainings")
    parser.add_argument("--images", type=int, default=10_000, help="training images of an epoch")
    parser.add_argument("--rate", type=float, default=0.05)
    given = parser.parse_args()
    cifar = data.load("cifar10", data_dir=given.data_dir)
    cifar = replace(cifar, mean=MEAN, std=STD, augmentation=GIVEN)
    dense = nets.build("resnet20")
    dense.load_state_dict(load_file(given.weights))
    recipe = secateur.Recipe(epochs=given.epochs, rate=given.rate, warmup=0.1)
    cuts = {keep: secateur.prune(dense.eval(), keep, pattern=given.pattern) for keep in given.keep}
    rows = []
    for seed in range(given.seeds):
        order = torch.randperm(len(cifar.train), generator=torch.Generator().manual_seed(seed))
        few = replace(cifar, train=cifar.train.take(order[: given.images]))
        for keep, (cut, result) in cuts.items():
            start = time.perf_counter()
            made = files(cut, result.masks, few, recipe, seed)
            found = {name: accuracy(answers(theirs(f), cifar), cifar) for name, f in made.items()}
            rows.append({"keep": keep, "seed": seed, **found})
            print(rows[-1], round(time.perf_counter() - start), "s", flush=True)
    record = {
        "net": "resnet20",
        "pattern": given.pattern,
        "recipe": f"twice {given.epochs} epochs of {given.images} images, rate {given.rate}",
        "precision": precision_of(recipe, torch.device("cpu")),
        "rows": rows,
        "versions": machine.versions(),
        "hardware": machine.describe(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
