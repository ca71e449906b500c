"""Does each layer get the faster of its two kernels? Sparse and dense, timed beside what is chosen.

    python benchmarks/choice.py [--layers 24] [--seed 0] [--densities 0.2,0.4,0.6,0.8] [--csv FILE]

Draws layers at random around those of real networks, each with zeros at random places, and times
both kernels of each for a single sample and for a tile of many, on one thread. Prints by density
how much slower the chosen kernels are than the faster ones, on geometric average and at worst, and
how many layers with zeros are slower than the same layer dense. Exit status 1: above 1.03 on
average.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from secateur.compiler import choice, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network, prepare
from secateur.compiler.pipeline import built, source_of
from secateur.compiler.runtime import Engine

GOAL = 1.03
REPEATS = 7


@dataclass(frozen=True)
class Layer:
    """A layer: a convolution of a plane, or linear where there is none."""

    channels: int
    outputs: int
    kernel: int
    stride: int
    plane: tuple[int, ...]
    groups: int = 1

    @property
    def input(self) -> tuple[int, ...]:
        return (self.channels, *self.plane)

    @property
    def weight(self) -> tuple[int, ...]:
        window = (self.kernel,) * len(self.plane)
        return (self.outputs, self.channels // self.groups, *window)


def drawn(rng: np.random.Generator) -> Layer:
    """Return a layer of a kind that networks have: 3x3, pointwise, depthwise, strided, linear."""
    kind = rng.choice(["3x3", "3x3", "pointwise", "pointwise", "depthwise", "first", "linear"])
    channels, outputs = (int(2 ** rng.uniform(3.5, 9)) for _ in range(2))
    side = int(2 ** rng.uniform(2, 6.2))
    while channels * outputs * side * side > 2**23:  # a network's layers are of like size
        side = max(3, side // 2)
        channels, outputs = max(8, channels * 3 // 4), max(8, outputs * 3 // 4)
    plane = (side, max(3, int(side * rng.uniform(0.6, 1.4))))
    stride = int(rng.choice([1, 1, 1, 2]))
    if kind == "linear":
        return Layer(4 * channels, 4 * outputs, 1, 1, ())
    if kind == "pointwise":
        return Layer(channels, outputs, 1, 1, plane)
    if kind == "depthwise":
        return Layer(channels, channels, int(rng.choice([3, 5])), stride, plane, channels)
    if kind == "first":
        return Layer(
            int(rng.choice([1, 3])), min(outputs, 64), int(rng.choice([3, 5, 7])), 2, plane
        )
    return Layer(channels, outputs, 3, stride, plane)


def network(layers: Sequence[Layer], density: float, seed: int, machine: Machine) -> Network:
    """Return a network of all layers side by side, prepared."""
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, weights = [], [], [], []
    for k, layer in enumerate(layers):
        w = rng.standard_normal(layer.weight).astype(np.float32)
        w[rng.random(w.shape) >= density] = 0
        inputs.append(
            helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, ["n", *layer.input])
        )
        outputs.append(helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, None))
        if not layer.plane:
            weights.append(numpy_helper.from_array(np.ascontiguousarray(w.T), f"w{k}"))
            nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"y{k}"], f"layer{k}"))
            continue
        pads = [layer.kernel // 2] * 4
        options: dict[str, Any] = {"pads": pads, "strides": [layer.stride] * 2}
        options["group"] = layer.groups
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        nodes.append(
            helper.make_node("Conv", [f"x{k}", f"w{k}"], [f"y{k}"], f"layer{k}", **options)
        )
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return prepare(model.SerializeToString(), machine)


def times(net: Network, layers: Sequence[Layer]) -> list[dict[str, float]]:
    """Return by program the seconds of each layer for one sample, the least of several runs."""
    target = toolchain.native()
    rng = np.random.default_rng(0)
    found = []
    with Engine(built(source_of(net, "layers"), target), threads=1) as engine:
        for program in net.programs:
            given = [
                rng.standard_normal((program.batch, *layer.input)).astype(np.float32)
                for layer in layers
            ]
            least: dict[str, float] = {}
            for _ in range(REPEATS):
                for step, spent in engine.profile(*given, repeats=3):
                    op, name = step.split(" ", 1)
                    if op in choice.LAYERS:
                        least[name] = min(least.get(name, spent), spent)
            found.append({name: spent / program.batch for name, spent in least.items()})
    return found


def measured(layers: Sequence[Layer], density: float, seed: int) -> list[dict[str, Any]]:
    """Return a row for each layer: what was chosen, and how long both kernels take, summed."""
    target = toolchain.native()
    machine = Machine(target.lanes, target.registers)
    net = network(layers, density, seed, machine)
    usual = choice.sums(net.graphs[0], machine)
    sparse = times(replace(net, sparse=usual), layers)
    dense = times(replace(net, sparse=dict.fromkeys(usual, 0)), layers)
    whole = network(layers, 1.0, seed, machine)
    as_dense = times(replace(whole, sparse=dict.fromkeys(usual, 0)), layers)
    rows = []
    for name, most in net.sparse.items():
        number = int(name.removeprefix("layer"))
        mine = [tuple(program[name] for program in kind) for kind in (sparse, dense, as_dense)]
        rows.append({
            "layer": layers[number], "density": density, "chosen": "sparse" if most else "dense",
            "sparse": mine[0], "dense": mine[1], "whole": mine[2],
        })  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--densities", default="0.2,0.4,0.6,0.8")
    parser.add_argument("--csv", type=Path, help="every layer's times")
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    layers = [drawn(rng) for _ in range(given.layers)]
    rows = []
    print("| kept | chosen over the faster, average | at worst | slower than dense, of all |")
    print("|---|---|---|---|")
    for density in map(float, given.densities.split(",")):
        found = measured(layers, density, given.seed)
        rows += found
        ratios = [
            sum(row[row["chosen"]]) / min(sum(row["sparse"]), sum(row["dense"])) for row in found
        ]
        slower = sum(sum(row[row["chosen"]]) > 1.03 * sum(row["whole"]) for row in found)
        average = exp(fmean(map(log, ratios)))
        print(
            f"| {density:.0%} | {average:.3f} | {max(ratios):.2f} | {slower} of {len(found)} |",
            flush=True,
        )
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["layer", "kept", "chosen", "program", "sparse", "dense", "whole"])
            for row in rows:
                for k in range(len(row["sparse"])):
                    known = [row["layer"], row["density"], row["chosen"], k]
                    writer.writerow(
                        [*known, *(row[kind][k] for kind in ("sparse", "dense", "whole"))]
                    )
    every = [sum(row[row["chosen"]]) / min(sum(row["sparse"]), sum(row["dense"])) for row in rows]
    return int(exp(fmean(map(log, every))) > GOAL)


if __name__ == "__main__":
    sys.exit(main())
