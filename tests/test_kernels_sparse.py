"""Convolutions that skip zeros: what a tile leaves at the right and at the bottom of a plane."""

from __future__ import annotations

import re

import numpy as np
import pytest

import kernel_harness
import onnx_models as om
from secateur.compiler import interpreter, pipeline, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.compiler.runtime import Engine


@pytest.mark.parametrize(
    ("plane", "registers"),
    [((7, 11), 32), ((9, 11), 32), ((11, 11), 32), ((11, 11), 16), ((7, 13), 16)],
    ids=str,
)
def test_a_rest_both_ways_has_a_tile_of_its_own(plane: tuple[int, int], registers: int) -> None:
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        kept = rng.random(shape) < 0.1
        return (rng.standard_normal(shape) * kept).astype(np.float32)

    machine = Machine(kernel_harness.machine().lanes, registers)
    nodes = [
        om.node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        om.node("Relu", "a", "b"),
        om.node("Conv", "b v", "c", pads=[1, 1, 1, 1]),
        om.node("Add", "c b", "y"),
    ]
    constants = {"w": weights(20, 6, 3, 3), "v": weights(20, 20, 3, 3)}
    source = om.model(nodes, {"x": ["N", 6, *plane]}, constants=constants).SerializeToString()
    network = prepare(source, machine)
    written = pipeline.source_of(network, "tested")
    tiles = re.findall(r"sec_sparse_layer\(.* t, T, spots, (\d+), (\d+), 0\);", written.model)
    left = [(plane[0] % int(high), plane[1] % int(wide)) for high, wide in tiles]
    assert sum(all(rest) for rest in left) >= 2, "no layer has such a tile; choose other planes"
    count = machine.lanes + 1
    x = rng.standard_normal((count, 6, *plane)).astype(np.float32)
    wanted = [interpreter.run(network.reference, {"x": x[k : k + 1]})["y"] for k in range(count)]
    with Engine(pipeline.built(written, toolchain.native()), 2) as engine:
        np.testing.assert_allclose(engine(x), np.concatenate(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["planes", "vectors", "transposed"])
def test_layers_of_equal_numbers_at_other_places(kind: str) -> None:
    """What is prepared from the places of non-zeros is each layer's own."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(64) for _ in range(3)]
    layers = [np.eye(64, dtype=np.float32)[order] for order in orders]
    x = rng.standard_normal((3, 64, *(() if kind == "vectors" else (6, 8)))).astype(np.float32)
    nodes, constants, value, wanted = [], {}, "x", x
    for number, (order, layer) in enumerate(zip(orders, layers, strict=True)):
        weight = {"planes": layer[:, :, None, None], "vectors": layer.T}.get(
            kind, layer.T[:, :, None, None]
        )
        constants[f"w{number}"] = np.ascontiguousarray(weight)
        op = {"planes": "Conv", "vectors": "MatMul"}.get(kind, "ConvTranspose")
        nodes.append(om.node(op, f"{value} w{number}", f"t{number}"))
        nodes.append(om.node("Tanh", f"t{number}", f"y{number}"))
        value, wanted = f"y{number}", np.tanh(wanted[:, order])
    proto = om.model(nodes, {"x": ["N", *x.shape[1:]]}, value, constants)
    with pipeline.compile_network(proto.SerializeToString()).engine() as engine:
        for count in (1, 3):
            np.testing.assert_allclose(engine(x[:count]), wanted[:count], rtol=1e-4, atol=1e-5)
