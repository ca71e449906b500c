"""Quantised networks drawn from a seed, through all passes, planned and compiled, many together.

What the engine gives must be what the references of the passed graph give, to the bit, whatever the
vectors, the instructions, the threads and the number of samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import kernel_harness
from kernel_harness import EXTRA
from kernel_nets import Net, as_tuple
from secateur.compiler import interpreter, passes, pipeline, toolchain
from secateur.compiler.graph import Graph
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target

F32 = np.dtype(np.float32)
NUMBERS = {dtype.name: number for number, dtype in ELEMENT_TYPES.items()}
Grid = tuple[float, int, str]
Build = Callable[["QuantisedNet"], None]

FLOATING = {"FusedConv", "FusedLinear", "Conv", "Gemm", "MatMul", "Add"}
POOLS = ("QuadAveragePool", "QuadMaxPool")
"""What a network of integers has none of."""


class QuantisedNet(Net):
    """A graph of quantised layers that grows; counts those that must be computed in integers."""

    def __init__(self, samples: int) -> None:
        super().__init__(samples)
        self.whole: Counter[str] = Counter()

    def keep(self, *values: str) -> None:
        super().keep(*(v for v in values if v not in self.outputs))

    def rounded(self, x: str, scale: float, zero: int, dtype: str = "uint8") -> str:
        """Quantise a number and say what its levels stand for."""
        form = {"scale": float(np.float32(scale)), "zero": zero}
        q = self.add("Quantize", x, to=NUMBERS[dtype], **form)
        return str(self.add("Dequantize", q, to=NUMBERS["float32"], **form))

    def weight(self, whole: np.ndarray, steps: np.ndarray | float) -> str:
        """Add a weight, int8 times a step of each output, float32."""
        rows = np.broadcast_to(np.asarray(steps, F32), len(whole))
        return self.constant(whole.astype(F32) * rows.reshape(-1, *(1,) * (whole.ndim - 1)))


class Drawn:
    """One small network: layers in a row, with branches and residuals, all drawn from a seed."""

    def __init__(self, net: QuantisedNet, seed: int) -> None:
        self.net, self.rng = net, np.random.default_rng(seed)
        self.ties = self.maybe()  # steps that are powers of two: many sums lie on a half
        self.layers = 0
        self.seen: list[tuple[str, Grid]] = []
        kind = self.one("plane", "plane", "plane", "line", "vector", "tokens")
        channels = self.one(self.number(1, 70), self.number(1, 9), 4 * self.number(8, 20))
        sides = {"plane": 2, "line": 1, "tokens": 1, "vector": 0}[kind]
        plane = tuple(self.number(1, 19 if sides == 2 else 40) for _ in range(sides))
        self.conv = kind in ("plane", "line")
        shape = (channels, *plane) if self.conv else (*plane, channels)
        self.grid: Grid = (2.0**-6 if self.ties else self.between(0.005, 0.03), *self.zero())
        self.value = net.rounded(net.input(*shape), *self.grid)

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def one(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def between(self, low: float, high: float) -> float:
        return float(np.float32(np.exp(self.rng.uniform(np.log(low), np.log(high)))))

    def zero(self) -> tuple[int, str]:
        dtype = self.one("uint8", "uint8", "int8")
        low = 0 if dtype == "uint8" else -128
        return low + self.one(0, 255, 128, self.number(0, 255)), dtype

    def shape(self, value: str) -> tuple[int, ...]:
        return self.net.types[value].shape

    def whole(self, *shape: int) -> np.ndarray:
        """Weights, int8: with zeros, an output that hears nothing, and the ends of the range."""
        w = self.rng.integers(-127, 127, shape, endpoint=True)
        w *= self.rng.random(shape) < self.one(0.2, 1, 1)
        if self.maybe(0.3):  # channels in fours, as dot4 cuts them
            fours = self.rng.random((shape[0], -(-shape[1] // 4), *shape[2:])) < 0.2
            w *= np.repeat(fours, 4, axis=1)[:, : shape[1]]
        if self.maybe(0.2):
            w[self.number(0, len(w) - 1)] = self.one(0, -128)
        return w

    def layer(self, op: str, whole: np.ndarray, **attributes: Any) -> None:
        """A layer with all that may follow it: bias, residual, activation, levels."""
        net, outputs = self.net, len(whole)
        step = 2.0**-8 if self.ties else self.between(1e-3, 1e-1)
        several = not self.ties and self.maybe()
        steps = step * (self.rng.uniform(0.5, 2, outputs) if several else 1)
        w = whole if op == "Conv" else whole.T
        weight = net.weight(whole, steps)
        if op == "MatMul":
            net.constants[weight] = net.constants[weight].T.copy()
            net.types[weight] = type(net.types[weight])(F32, w.shape)
        spread = step * self.grid[0] * 100 * float(np.sqrt(np.square(whole).sum() / outputs + 1))
        inputs = [self.value, weight]
        if op == "Conv" and self.maybe():
            inputs.append(net.constant((spread * self.rng.standard_normal(outputs)).astype(F32)))
        y = net.add(op, *inputs, **attributes)
        if op == "MatMul" and self.maybe():
            y = net.add("Add", y, net.constant(self.rng.standard_normal(outputs).astype(F32)))
        same = [(v, g) for v, g in self.seen if self.shape(v) == self.shape(y)]
        if same and self.maybe(0.8):
            other, grid = self.one(*same)
            y = net.add("Add", *self.rng.permutation([y, other]).tolist())
            spread = max(spread, 50 * grid[0])
        self.end(y, spread)
        net.whole["layer"] += 1

    def end(self, y: str, spread: float) -> None:
        net, scale = self.net, self.between(0.005, 0.05) * spread
        if self.ties:
            scale = float(2.0 ** np.rint(np.log2(scale)))
        end = self.one("", "", "Relu", "Clip", "LeakyRelu")
        bounds = np.sort(self.rng.normal(0, spread, 2)).astype(F32)
        if end == "Clip":
            y = net.add("Clip", y, *map(net.constant, map(np.asarray, bounds)))
        elif end:
            y = net.add(end, y, **({"alpha": 0.125} if end == "LeakyRelu" else {}))
        if self.maybe(0.1):
            net.keep(y)  # the number itself is asked for, so that it is no part of the layer
        self.grid = (scale, *self.zero())
        self.value = net.rounded(y, *self.grid)
        if self.maybe(0.1):
            net.keep(self.value)

    def convolution(self) -> None:
        channels, *plane = self.shape(self.value)[1:]
        groups, outputs = 1, self.number(1, 40)
        if channels % 4 == 0 and self.maybe():
            groups = self.one(channels, *(g for g in (2, 3, 4) if channels // 4 % g == 0))
            outputs = channels if groups == channels else groups * 4 * self.number(1, 4)
        if groups == 1 and self.maybe(0.2):
            outputs = 16 * self.number(1, 5)  # what matrix instructions take
        window: dict[str, list[int]] = {"kernel": [], "strides": [], "dilations": []}
        before, after = [], []
        for extent in plane:
            k = self.number(1, min(7, extent)) if self.maybe() else min(3, extent)
            d = self.number(1, 3) if (k - 1) * 3 < extent else 1
            window["kernel"].append(k)
            window["dilations"].append(d)
            window["strides"].append(self.one(1, 1, 1, 2, 3))
            before.append(self.number(0, (k - 1) * d))
            after.append(self.number(0, (k - 1) * d))
        if self.maybe(0.4):  # a layer that keeps the plane, so that residuals meet
            window["strides"] = [1] * len(plane)
            reach = [
                (k - 1) * d for k, d in zip(window["kernel"], window["dilations"], strict=True)
            ]
            before = [r // 2 for r in reach]
            after = [r - b for r, b in zip(reach, before, strict=True)]
            outputs = channels if groups == 1 else outputs
        whole = self.whole(outputs, channels // groups, *window.pop("kernel"))
        self.layer("Conv", whole, pads=tuple(before + after), group=groups,
                   **{key: tuple(v) for key, v in window.items()})  # fmt: skip

    def linear(self) -> None:
        inputs = self.shape(self.value)[-1]
        outputs = inputs if self.maybe(0.3) else self.number(1, 70)
        self.layer("MatMul", self.whole(outputs, inputs))

    def pool(self) -> None:
        plane = self.shape(self.value)[2:]
        kernel = [self.number(1, min(3, n)) for n in plane]
        pads = [self.number(0, (k - 1) // 2) for _ in range(2) for k in kernel]
        y = self.net.add(
            "MaxPool", self.value, kernel_shape=tuple(kernel), pads=tuple(pads),
            strides=tuple(self.number(1, 2) for _ in kernel),
            dilations=(1,) * len(kernel), ceil_mode=self.number(0, 1),
        )  # fmt: skip
        self.moved(y, "QuadMaxPool")

    def mean(self) -> None:
        """Of windows, or of the whole plane, which leaves one position."""
        plane, how = self.shape(self.value)[2:], self.one("windows", "windows", "plane", "axes")
        if how == "plane":
            y = self.net.add("GlobalAveragePool", self.value)
        elif how == "axes":
            axes = np.arange(2, 2 + len(plane))
            y = self.net.add("ReduceMean", self.value, self.net.constant(axes), keepdims=1)
        else:
            kernel = [self.number(1, n) if self.maybe(0.3) else min(n, 3) for n in plane]
            y = self.net.add(
                "AveragePool", self.value, kernel_shape=tuple(kernel),
                pads=tuple(self.number(0, (k - 1) // 2) for _ in range(2) for k in kernel),
                strides=tuple(self.number(1, 3) for _ in kernel), dilations=(1,) * len(kernel),
                ceil_mode=self.number(0, 1), count_include_pad=self.number(0, 1),
            )  # fmt: skip
        if self.maybe(0.3):
            self.net.keep(y)
        if not self.ties:
            self.grid = (self.grid[0] * self.between(0.3, 1), *self.zero())
        self.value = self.net.rounded(y, *self.grid)
        self.net.whole["QuadAveragePool"] += 1

    def moved(self, y: str, op: str) -> None:
        self.value = self.net.rounded(y, *self.grid)
        self.net.whole[op] += 1

    def join(self) -> None:
        """Put what there was beside itself, in whole quads, and on the same grid."""
        same = [(v, g) for v, g in self.seen if g == self.grid and v != self.value]
        shapes = [v for v, _ in same if self.shape(v)[2:] == self.shape(self.value)[2:]]
        if self.conv and shapes:
            self.value = self.net.rounded(
                self.net.add("Concat", self.one(*shapes), self.value, axis=1), *self.grid
            )

    def total(self) -> None:
        same = [(v, g) for v, g in self.seen if self.shape(v) == self.shape(self.value)]
        if same and len(self.shape(self.value)) > 1:
            other, grid = self.one(*same)
            spread = 40 * (self.grid[0] + grid[0])
            y = self.net.add("Add", self.value, other)
            scale = spread / 60 if not self.ties else float(2.0 ** np.rint(np.log2(spread / 60)))
            if self.maybe():
                y = self.net.add("Relu", y)
            self.grid = (scale, *self.zero())
            self.value = self.net.rounded(y, *self.grid)
            self.net.whole["QuadAdd"] += 1

    def looked_up(self) -> None:
        """A function of single levels: after a layer, a table of them."""
        if self.layers:
            function = self.one("Sigmoid", "Tanh", "HardSwish", "Softplus", "Elu")
            y = self.net.add(function, self.value)
            self.grid = (self.between(0.003, 0.03), *self.zero())
            self.value = self.net.rounded(y, *self.grid)

    def flat(self) -> None:
        """One position left, then vectors."""
        channels, *plane = self.shape(self.value)[1:]
        self.layer("Conv", self.whole(self.number(1, 30), channels, *plane),
                   pads=(0,) * 2 * len(plane), strides=(1,) * len(plane),
                   dilations=(1,) * len(plane), group=1)  # fmt: skip
        self.conv = False
        self.value = self.net.rounded(self.net.add("Flatten", self.value, axis=1), *self.grid)
        self.linear()

    def step(self, step: str) -> None:
        self.seen.append((self.value, self.grid))
        getattr(self, step)()
        self.layers += step in ("convolution", "linear", "total")

    def grow(self, steps: int) -> None:
        for _ in range(steps):
            steps = ["total", "looked_up", *["linear"] * 3]
            if self.conv:
                steps = ["pool", "mean", "total", "join", "looked_up", *["convolution"] * 4]
            self.step(self.one(*steps))
        if self.conv and self.maybe(0.2):
            self.flat()
        self.net.keep(self.value)


def drawn(seeds: Sequence[int], steps: int = 3) -> Build:
    """Return what adds a network of each seed."""

    def build(net: QuantisedNet) -> None:
        for seed in seeds:
            one = Drawn(net, seed)
            one.grow(one.one(1, 1, 1, one.number(1, steps)))

    return build


def every_operator(net: QuantisedNet) -> None:
    """Add a network with each operator on quads, depthwise layers and residuals among them."""
    one = Drawn(net, 1355)
    steps = ["convolution", "pool", "looked_up", "convolution", "total", "convolution", "pool"]
    for step in [*steps, "mean"]:
        one.step(step)
    one.flat()
    net.keep(one.value)
    # products as large as they can be: -128 times what is 128 below the middle
    lowest = net.rounded(net.input(24), 2.0**-9, 0)
    whole = np.full((24, 8), -128)
    whole[-1] = 1  # without it, -127 steps of another size would do
    y = net.add("MatMul", lowest, net.constant((whole * 2.0**-8).astype(F32)))
    net.keep(net.rounded(y, 2.0**-4, 128))
    net.whole["layer"] += 1


def programs(
    build: Build, machine: Machine, tiles: Sequence[int] = (0, 1), skipping: int = 0
) -> Network:
    """Plan a network after all passes.

    Args:
        build: adds layers to a net.
        machine: the target.
        tiles: of each program, samples in a lane; 0 for a program of one sample.
        skipping: vectors of sums of a tile of layers that skip zeros; 0: they do not.
    """
    nets = [QuantisedNet(max(1, machine.lanes * many)) for many in tiles]
    for net in nets:
        build(net)
    graphs = tuple(passes.apply(net.graph()) for net in nets)
    for net, graph in zip(nets, graphs, strict=True):
        in_integers(graph, net.whole)
    planned = tuple(
        plan(graph, machine, batch=net.samples, lanes=net.samples > 1, batched=True)
        for graph, net in zip(graphs, nets, strict=True)
    )
    sparse = {node.name: skipping for node in graphs[0].nodes}
    return Network(graphs[0], graphs, planned, True, sparse, machine)


def in_integers(graph: Graph, wanted: Mapping[str, int]) -> None:
    """See that layers are computed in integers, as many as there are."""
    found = Counter(node.op for node in graph.nodes)
    assert not FLOATING & set(found), found
    layers = found["QuadConv"] + found["QuadLinear"]
    assert layers == wanted["layer"], (found, wanted)
    assert all(found[op] == wanted[op] for op in POOLS), (found, wanted)


def arrays_for(network: Network, samples: int) -> dict[str, np.ndarray]:
    """Draw inputs, half of them on a half of a step of 1/64."""
    rng = np.random.default_rng(1)
    graph, found = network.graphs[0], {}
    for name in graph.inputs:
        x = rng.standard_normal((samples, *graph.types[name].shape[1:]))
        on = rng.random(x.shape) < 0.5
        found[name] = np.where(on, np.rint(x * 128) / 128, x).astype(F32)
    return found


def wanted(network: Network, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run the references on as many samples at once as the first program has."""
    graph = network.graphs[0]
    tile = graph.types[graph.inputs[0]].shape[0]
    count = len(arrays[graph.inputs[0]])
    parts = []
    for start in range(0, count, tile):
        part = {name: a[start : start + tile] for name, a in arrays.items()}
        room = tile - min(tile, count - start)
        part = {
            name: np.concatenate([a, np.zeros((room, *a.shape[1:]), F32)])
            for name, a in part.items()
        }
        parts.append(interpreter.run(graph, part))
    return [np.concatenate([p[name] for p in parts])[:count] for name in graph.outputs]


def same(
    network: Network, got: Sequence[np.ndarray], want: Sequence[np.ndarray], what: str
) -> None:
    """Compare to the bit; names the layer that differs."""
    graph = network.graphs[0]
    makers = graph.producers()
    wrong = []
    for name, mine, its in zip(graph.outputs, got, want, strict=True):
        assert (mine.dtype, mine.shape) == (its.dtype, its.shape), name
        if np.array_equal(mine, its):
            continue
        away, value, trail = np.argwhere(mine != its), name, list[str]()
        while value in makers:
            node = makers[value]
            shapes = [graph.types[v].shape for v in node.inputs if v]
            trail.append(f"  {node.op} {dict(node.attributes)} of {shapes}")
            value = node.inputs[0]
        where = f"{name}: {len(away)} of {its.size}, first {away[:3].tolist()}:"
        wrong.append("\n".join([where, *trail]))
    assert not wrong, "\n".join([f"{what}: {len(wrong)} outputs differ", *wrong])


def engine_of(network: Network, target: Target | None = None, threads: int = 1) -> Engine:
    """Compile a network for this machine, or another target that it can run."""
    source = pipeline.source_of(network, "tested")
    return Engine(pipeline.built(source, target or toolchain.native()), threads)


def check(
    build: Build,
    machine: Machine | None = None,
    target: Target | None = None,
    tiles: Sequence[int] = (0, 1),
    skipping: int = 0,
) -> Network:
    """Compile networks and compare: with one thread and three; a tile, less, and some more."""
    network = programs(build, machine or kernel_harness.machine(), tiles, skipping)
    source = pipeline.source_of(network, "tested")
    content = pipeline.built(source, target or toolchain.native())
    batch = network.programs[-1].batch
    counts = {1, batch - 1, batch, batch + EXTRA} if len(tiles) > 1 else {batch, 2 * batch}
    arrays = arrays_for(network, max(counts))
    want = wanted(network, arrays)
    with Engine(content, 1) as alone, Engine(content, 3) as team:
        for count in sorted(counts):
            part = {name: a[:count] for name, a in arrays.items()}
            for engine, threads in ((alone, 1), (team, 3)):
                got = as_tuple(engine(part))
                what = f"{count} samples, {threads} threads"
                same(network, got, [a[:count] for a in want], what)
    return network
