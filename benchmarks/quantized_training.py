"""Accuracy on CIFAR-10 of the cut ResNet-20: quantised after training, and trained in 8 bit.

Usage: python benchmarks/quantized_training.py --weights resnet20-cifar10.safetensors

The network is cut in single weights, by magnitude. Then the cut network is fine-tuned on 10,000
training images in float32, and quantised; or on the same batches, with the same rates, in 8 bit,
in all epochs or in the last one alone. Batch norms are recalibrated, and accuracy is that of files
in ONNX Runtime, on all 10,000 test images.
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

IMAGES = 512
"""Of calibration."""

RECALIBRATED = 4096
"""Images that batch norms are recalibrated on."""


class Runs:
    """What is done to one cut network, with one seed."""

    def __init__(
        self, model: nn.Module, masks: Masks, few: ImageData, recipe: secateur.Recipe, seed: int
    ) -> None:
        self.model, self.masks, self.few, self.recipe, self.seed = model, masks, few, recipe, seed
        self.some = images(few, IMAGES, seed)

    def float32(self) -> tuple[bytes, bytes]:
        """Return files of the network that is fine-tuned in float32, and of that quantised."""
        model = deepcopy(self.model)
        self.finetune(model, self.recipe)
        self.recalibrate(model)
        content = to_onnx(model.eval(), torch.zeros(1, 3, 32, 32))
        return content, secateur.quantize(content, self.some).content

    def int8(self, before: int) -> bytes:
        """Return the file of the network that is trained in 8 bit after so many epochs."""
        model = deepcopy(self.model)
        if before:  # down to a rate of 0, and up again
            self.finetune(model, replace(self.recipe, epochs=before))
        training = secateur.QuantizedTraining(model, self.some)
        self.finetune(model, replace(self.recipe, epochs=self.recipe.epochs - before))
        self.recalibrate(model)
        return training.finish(self.some).content

    def finetune(self, model: nn.Module, recipe: secateur.Recipe) -> None:
        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(outputs, labels)

        secateur.finetune(model, self.masks, self.few, loss, recipe=recipe, seed=self.seed)

    def recalibrate(self, model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        secateur.recalibrate(model, self.few.calibration(RECALIBRATED, 256, generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.3, 0.1], help="keep ratios")
    parser.add_argument("--pattern", default="weight", help="what is cut together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=10_000, help="training images of an epoch")
    parser.add_argument("--rate", type=float, default=0.05)
    given = parser.parse_args()
    cifar = data.load("cifar10", data_dir=given.data_dir)
    cifar = replace(cifar, mean=MEAN, std=STD, augmentation=GIVEN)
    dense = nets.build("resnet20")
    dense.load_state_dict(load_file(given.weights))
    recipe = secateur.Recipe(epochs=given.epochs, rate=given.rate, warmup=0.1)
    rows = []
    cuts = {keep: secateur.prune(dense.eval(), keep, pattern=given.pattern) for keep in given.keep}
    for seed in range(given.seeds):
        for keep, (cut, result) in cuts.items():
            start = time.perf_counter()
            order = torch.randperm(len(cifar.train), generator=torch.Generator().manual_seed(seed))
            few = replace(cifar, train=cifar.train.take(order[: given.images]))
            runs = Runs(cut, result.masks, few, recipe, seed)
            plain, after = runs.float32()
            files = {
                "float32": plain,
                "int8 after training": after,
                "trained in 8 bit": runs.int8(0),
                "trained in 8 bit in the last epoch": runs.int8(given.epochs - 1),
            }
            found = {
                name: accuracy(answers(theirs(file), cifar), cifar) for name, file in files.items()
            }
            rows.append({"keep": keep, "seed": seed, **found})
            print(rows[-1], round(time.perf_counter() - start), "s", flush=True)
    record = {
        "net": "resnet20",
        "pattern": given.pattern,
        "recipe": f"{given.epochs} epochs of {given.images} images, rate {given.rate}",
        "precision": precision_of(recipe, torch.device("cpu")),
        "rows": rows,
        "versions": machine.versions(),
        "hardware": machine.describe(),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
