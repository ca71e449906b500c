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
