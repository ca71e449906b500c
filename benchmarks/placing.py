"""What it is worth to rank by cost: the pretrained ResNet-20 cut as goals of latency cut it.

Usage: python benchmarks/placing.py --weights shared/pretrained/resnet20-cifar10.safetensors

It is cut in one shot by magnitude to several keep ratios, in fours and for int8 files or as
--pattern and --float say; once with zeros where the criterion puts them, once where cost does, as
`Goal(latency_ms=...)` ranks with `by_cost`. Batch norms are recalibrated on training images. All
networks are timed in turns, one thread, relative to the uncut one; accuracy is of the cut network
in float32, on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn

import secateur
from pretrained import MEAN, STD
from quantize import images
from secateur import data, machine, nets
from secateur.compiler.pipeline import compile_network
from secateur.compiler.runtime import Engine
from secateur.export import to_onnx
from secateur.measure.accuracy import evaluate
from secateur.model.copying import copied
from secateur.onecall.goal import budget_of
from secateur.onecall.job import job_of
from secateur.onecall.weights import Weights
from secateur.study.task import ACCURACY

IMAGES = 1024
"""Training images that batch norms are recalibrated on."""
ROUNDS, RUNS = 15, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; by default the cache")
    parser.add_argument("--criterion", type=float, nargs="+", default=[0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--cost", type=float, nargs="+", default=[0.95, 0.9, 0.85, 0.8, 0.7])
    parser.add_argument("--pattern", default="dot4")
    parser.add_argument("--float", action="store_true", help="time float32, not int8")
    parser.add_argument("--batch", type=int, default=16)
    given = parser.parse_args()
    cifar = replace(data.load("cifar10", data_dir=given.data_dir), mean=MEAN, std=STD)
    model = nets.build("resnet20")
    model.load_state_dict(load_file(given.weights))
    model.eval()
    some, int8 = images(cifar, IMAGES, 0), not given.float
    example = some[: given.batch]
    ways = {"criterion": given.criterion, "cost": given.cost}
    cuts = {("uncut", 1.0): model} | {
        (name, keep): cut
        for name, keeps in ways.items()
        for keep, cut in zip(
            keeps, _cut(model, keeps, name, given.pattern, some, example, int8), strict=True
        )
    }
    engines = [_engine(cut, example, int8) for cut in cuts.values()]
    shares = _shares(engines, example.numpy())
    found = []
    for ((name, keep), cut), share in zip(cuts.items(), shares, strict=True):
        accuracy = evaluate(cut.eval(), cifar.evaluation("test"), ACCURACY.function)
        found.append({"by": name, "keep": keep, "time": share, "accuracy": round(accuracy, 2)})
        print(found[-1], flush=True)
    record = {"of the uncut network's time": found, "versions": machine.versions()}
    print(json.dumps(record | {"hardware": machine.describe()}, indent=2))


def _cut(
    model: nn.Module,
    keeps: Sequence[float],
    name: str,
    pattern: str,
    some: Tensor,
    example: Tensor,
    int8: bool,
) -> list[nn.Module]:
    goal = secateur.Goal(latency_ms=1.0, int8=int8, by_cost=name == "cost")
    job = job_of(
        model,
        budget_of(None, pattern, goal),
        plan=None,
        criterion="magnitude",
        data=some,
        loss=None,
        example=example,
        recover="batchnorm",
        seed=0,
    )
    way = Weights(job, goal)
    return [way.prune(keep, copied(model)).model.eval() for keep in keeps]


def _engine(model: nn.Module, example: Tensor, int8: bool) -> Engine:
    content = (
        secateur.quantize(model, example, ranges="minmax").content
        if int8
        else to_onnx(model, example)
    )
    return compile_network(content).engine(threads=1)


def _shares(engines: Sequence[Engine], x: np.ndarray) -> list[float]:
    """Return the time of each engine, relative to the first one's: the median of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        least = []
        for engine in engines:
            times = []
            for _ in range(RUNS):
                start = time.perf_counter()
                engine(x)
                times.append(time.perf_counter() - start)
            least.append(min(times))
        rounds.append([each / least[0] for each in least])
    return [round(median(column), 3) for column in zip(*rounds, strict=True)]


if __name__ == "__main__":
    main()
