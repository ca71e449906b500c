"""Dynamically quantised networks drawn from a seed: levels by scales that are known at run time.

All samples share a scale, so their number is fixed. Products are written as ONNX's tools do:
MatMulInteger or ConvInteger, a cast, and the product with both scales.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from integer_nets import F32, FLOATING, NUMBERS, same
from kernel_nets import Net, as_tuple
from secateur.compiler import interpreter, passes, pipeline, toolchain
from secateur.compiler.graph import Graph
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target


class Drawn:
    """One small network: layers in a row, with all that may join them."""

    def __init__(self, net: Net, seed: int) -> None:
        self.net, self.rng = net, np.random.default_rng(seed)
        self.layers = 0
        kind = self.one("plane", "plane", "line", "vector", "tokens", "tokens")
        sides = {"plane": 2, "line": 1, "tokens": 1, "vector": 0}[kind]
        plane = tuple(self.number(1, 15 if sides == 2 else 40) for _ in range(sides))
        channels = self.one(self.number(1, 70), self.number(1, 9), 4 * self.number(8, 20))
        self.conv = kind in ("plane", "line")
        self.value = net.input(*((channels, *plane) if self.conv else (*plane, channels)))

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def one(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def weight(self, *shape: int) -> tuple[str, list[str]]:
        """Return levels of weights, and their zero point where they have one."""
        w = self.rng.integers(-127, 127, shape, endpoint=True)
        w *= self.rng.random(shape) < self.one(0.1, 1, 1)
        if self.maybe(0.6):
            return self.net.constant(w.astype(np.int8)), []
        dtype = self.one(np.int8, np.uint8)  # differences of nine bits
        levels = np.clip(w, -128, 127).astype(np.int8).view(dtype)
        point = self.one(3, 60) if dtype == np.int8 else self.one(120, 128, 137)
        return self.net.constant(levels), [self.net.constant(np.array(point, dtype))]

    def layer(self, op: str, axis: int, w: str, zeros: list[str], **form: Any) -> None:
        net, x = self.net, self.value
        ends = [net.add(end, x, keepdims=0) for end in ("ReduceMax", "ReduceMin")]
        scale, point = net.add("DynamicGrid", *ends, wanted=(True, True))
        q = net.add("QuantizeBy", x, scale, point)
        sums = net.add(op, q, w, point, *zeros, **form)
        shape = net.types[sums].shape
        own = [1] * len(shape)
        own[axis] = shape[axis] if self.maybe() and not zeros else 1
        steps = self.rng.uniform(0.005, 0.02, own).astype(F32)
        steps = net.constant(steps if self.maybe() or max(own) > 1 else steps.reshape(()))
        both = net.add("Mul", *self.rng.permutation([scale, steps]).tolist())
        y = net.add("Mul", net.add("Cast", sums, to=NUMBERS["float32"]), both)
        if self.maybe(0.7):
            own[axis] = shape[axis]
            y = net.add("Add", y, net.constant(self.rng.standard_normal(own).astype(F32)))
        if net.types[x].shape == shape and self.maybe(0.8):
            y = net.add("Add", *self.rng.permutation([y, x]).tolist())
        end = self.one("", "", "Relu", "Clip", "LeakyRelu")
        if end == "Clip":
            bounds = np.sort(self.rng.standard_normal(2)).astype(F32)
            y = net.add("Clip", y, *map(net.constant, map(np.asarray, bounds)))
        elif end:
            y = net.add(end, y, **({"alpha": 0.125} if end == "LeakyRelu" else {}))
        self.value = y
        self.layers += 1

    def convolution(self) -> None:
        channels, *plane = self.net.types[self.value].shape[1:]
        groups, outputs = 1, self.one(self.number(1, 40), channels)
        kernel = [min(n, self.number(1, 4)) for n in plane]
        reach = [(self.number(0, (k - 1) // 2), self.number(0, k // 2)) for k in kernel]
        if self.maybe(0.3):  # a plane of the same extents, so that the input may join
            kernel = [min(3, n) if n > 2 else 1 for n in plane]
            reach, outputs = [(k // 2, k // 2) for k in kernel], channels
        strides = tuple(
            1 if sum(r) == k - 1 else self.number(1, 2) for r, k in zip(reach, kernel, strict=True)
        )
        if channels % 4 == 0 and self.maybe(0.3):
            groups = outputs = channels
        w, zeros = self.weight(outputs, channels // groups, *kernel)
        if groups > 1 and zeros:
            w, zeros = (
                self.net.constant(self.rng.integers(-9, 9, self.net.types[w].shape, np.int8)),
                [],
            )
        pads = (*(r[0] for r in reach), *(r[1] for r in reach))
        self.layer(
            "ConvInteger", 1, w, zeros, pads=pads, strides=strides, group=groups,
            dilations=(1,) * len(plane),
        )  # fmt: skip

    def linear(self) -> None:
        inputs = self.net.types[self.value].shape[-1]
        # sixteens are what matrix instructions take
        outputs = inputs if self.maybe(0.4) else self.one(self.number(1, 70), 16, 64)
        w, zeros = self.weight(inputs, outputs)
        self.layer("MatMulInteger", -1, w, zeros)

    def grow(self) -> None:
        for _ in range(self.number(1, 3)):
            if self.conv:
                self.convolution()
            else:
                self.linear()
        self.net.keep(self.value)


def network(seeds: Sequence[int], machine: Machine, samples: int = 3, skipping: int = 0) -> Network:
    """Plan a network of each seed, together, for a number of samples that stays."""
    net, layers = Net(samples), 0
    for seed in seeds:
        one = Drawn(net, seed)
        one.grow()
        layers += one.layers
    graph = passes.apply(net.graph())
    found = Counter(node.op for node in graph.nodes)
    assert not (FLOATING - {"Add"}) & set(found), found
    assert found["QuadConv"] + found["QuadLinear"] == layers
    program = plan(graph, machine, batch=1, lanes=False, batched=False)
    sparse = {node.name: skipping for node in graph.nodes}
    return Network(graph, (graph,), (program,), False, sparse, machine)


def arrays_for(graph: Graph) -> dict[str, np.ndarray]:
    """Draw inputs of very different sizes; some are 0, some have one sign, some are constant."""
    rng, found = np.random.default_rng(1), {}
    for k, name in enumerate(graph.inputs):
        x = rng.standard_normal(graph.types[name].shape)
        x = (x, np.abs(x), -np.abs(x), x * 0, x * 0 + 3, x, x * 1e-9, x * 1e9)[k % 8]
        found[name] = x.astype(F32)
    return found


def wanted(planned: Network, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    made = interpreter.run(planned.graphs[0], arrays)
    return [made[name] for name in planned.graphs[0].outputs]


def check(planned: Network, target: Target | None = None, what: str = "") -> None:
    """Compile it, run it with one thread and with three, and compare to the bit."""
    arrays = arrays_for(planned.graphs[0])
    want = wanted(planned, arrays)
    content = pipeline.built(pipeline.source_of(planned, "tested"), target or toolchain.native())
    for threads in (1, 3):
        with Engine(content, threads) as engine:
            same(planned, as_tuple(engine(arrays)), want, f"{what}, {threads} threads")
