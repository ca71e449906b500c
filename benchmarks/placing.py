"""What it is worth to place zeros by measured cost: the pretrained ResNet-20, cut to latencies.

Usage: python benchmarks/placing.py --weights shared/pretrained/resnet20-cifar10.safetensors

It is cut in one shot by magnitude, in fours and for int8 files or as --pattern and --float say,
until a pass over --batch images takes a share of what the uncut network takes; once with zeros
ranked by the criterion alone, once by what a weight costs. Batch norms are recalibrated on training
images; accuracy is of the cut network in float32, on all 10,000 test images.
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
from secateur.measure.latency import compiled_latency
from secateur.study.task import ACCURACY

IMAGES = 1024
"""Training images that batch norms are recalibrated on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.8, 0.7])
    parser.add_argument("--pattern", default="dot4")
    parser.add_argument("--float", action="store_true", help="time float32, not int8")
    parser.add_argument("--recover", default="batchnorm", choices=["batchnorm", "reconstruct"])
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    cifar = replace(data.load("cifar10", data_dir=given.data_dir), mean=MEAN, std=STD)
    model = nets.build("resnet20")
    model.load_state_dict(load_file(given.weights))
    model.eval()
    some, int8 = images(cifar, IMAGES, 0), not given.float
    example = some[: given.batch]
    dense = compiled_latency(model, example, int8=int8)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for share in given.shares:
        for by_cost in (False, True):
            goal = secateur.Goal(latency_ms=share * dense, int8=int8, by_cost=by_cost)
            cut, result = secateur.prune(
                model,
                goal=goal,
                pattern=given.pattern,
                data=some,
                example=example,
                recover=given.recover,
            )
            accuracy = evaluate(cut.eval(), cifar.evaluation("test"), ACCURACY.function)
            values = {
                "keep": result.requested,
                "milliseconds": round(compiled_latency(cut, example, int8=int8), 3),
                "accuracy": round(accuracy, 2),
            }
            found.setdefault(f"{share:g}", {})["by cost" if by_cost else "criterion"] = values
            print(f"{share:g}", "by cost" if by_cost else "criterion", values, flush=True)
    record = {"dense": round(dense, 3), "of it": found, "versions": machine.versions()}
    print(json.dumps(record | {"hardware": machine.describe()}, indent=2))


if __name__ == "__main__":
    main()
