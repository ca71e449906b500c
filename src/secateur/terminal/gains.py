"""Which zeros make a layer faster on this machine: measured on one, in a few seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from secateur.compiler import choice, pipeline, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.compiler.runtime import Engine
from secateur.errors import CompileError
from secateur.pruning.parameters import axes_of
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.selection import select
from secateur.quantization.call import quantize
from secateur.terminal.doctor import Check

KEEP = 0.1
CHANNELS, SIDE = 128, 16
"""Of the layer: a 3x3 convolution as they stand in the middle of a residual network."""
FLOAT, INT8 = ("weight", "1x4", "dot4"), ("dot4",)
"""Patterns that are measured, by the type that is computed in. Zeros at single places are not
skipped in int8: the instructions take four products at a time."""
RUNS = 50
"""Of each layer; the fastest counts. No run is averaged with others: on a busy machine a slow layer
is interrupted more often than a fast one, and an average would call the fast one faster still."""


class _Layers(nn.Module):
    """Layers side by side on one input, named by what they are: `fp32`, `fp32_dot4`, ..."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = ["fp32", *(f"fp32_{p}" for p in FLOAT), "int8", *(f"int8_{p}" for p in INT8)]
        for name in self.names:
            layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
            self.add_module(name, layer)
            if pattern := _pattern(name):
                scores = {"weight": layer.weight.detach().abs()}
                budget = Budget(KEEP, pattern=pattern)
                select(scores, budget, axes=axes_of(layer, ["weight"])).apply(layer)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.get_submodule(name)(x).relu() for name in self.names)


def measure() -> dict[str, float]:
    """Return how many times as fast as the dense layer in fp32 others are, on one core.

    Returns:
        "int8", and type and pattern such as "int8 dot4", of which a tenth is kept -> speed.

    Raises:
        CompileError: there is no compiler, or it does not work.
    """
    target = toolchain.target("native")
    images = torch.rand(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    layers = _Layers().eval()
    content = quantize(
        layers,
        images,
        ranges="minmax",
        keep_float=[f"/{name}/Conv" for name in layers.names if name.startswith("fp32")],
    ).content
    network = prepare(content, Machine(target.lanes, target.registers, target.matrix))
    usual = choice.sums(network.graphs[0], network.machine)
    skipped = {node: most if _pattern(_name(node)) else 0 for node, most in usual.items()}
    network = replace(  # one sample at a time
        network,
        graphs=network.graphs[:1],
        programs=network.programs[:1],
        loads=network.loads[:1],
        sparse=skipped,
    )
    found: dict[str, float] = {}
    with Engine(pipeline.built(pipeline.source_of(network, "gains"), target), 1) as engine:
        for _ in range(RUNS):
            for step, seconds in engine.profile(images[:1].numpy()):
                kind, _, node = step.partition(" ")
                if kind in (*choice.LAYERS, *choice.INTEGER):
                    name = _name(node)
                    found[name] = min(found.get(name, np.inf), seconds)
    dense = found.pop("fp32")
    return {name.replace("_", " "): dense / seconds for name, seconds in found.items()}


def said() -> Check:
    """Measure, and say it as `secateur doctor` does."""
    try:
        found = measure()
    except CompileError as error:
        return Check("zeros that pay", "not measured", None, str(error))
    by_type = {
        kind: [
            f"{name.removeprefix(kind).strip() or 'no zeros'} {speed:.2g} ×"
            for name, speed in found.items()
            if name.startswith(kind)
        ]
        for kind in ("fp32", "int8")
    }
    value = "; ".join(f"{kind}: {', '.join(texts)}" for kind, texts in by_type.items())
    best = max(found, key=lambda name: found[name])
    pattern = f"--pattern {_pattern(best.replace(' ', '_'))} " if " " in best else ""
    kind = "--int8" if best.startswith("int8") else ""
    return Check(
        "zeros that pay",
        value,
        None,
        f"speed of a 3x3 convolution with {100 - 100 * KEEP:.0f} % zeros over a dense one in fp32, "
        f"one core; fastest: {pattern}{kind}",
        found,
    )


def _name(node: str) -> str:
    """Return the name of a layer from that of its node in the ONNX file."""
    return node.split("/")[1]


def _pattern(name: str) -> str:
    return name.partition("_")[2]
