"""Layers between levels, computed in integers: engines give what references give, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import integer_nets
from kernel_nets import FEW
from secateur.compiler import pipeline, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.passes import grids

NETWORKS = 10
"""Of one example: all are compiled at once. With three examples, in six forms, 180; `make
test-long` draws ten times as many."""


def native() -> Machine:
    """Return this machine with its matrix instructions, if it has them."""
    target = toolchain.native()
    return Machine(target.lanes, target.registers, target.matrix)


@pytest.mark.parametrize("tiles", [(0,), (1,)], ids=["one", "many"])
@pytest.mark.parametrize("machine", [None, Machine(8, 16), Machine(4, 32)], ids=str)
@FEW
@given(first=st.integers(0, 2**32))
def test_random_networks_equal_their_references(
    machine: Machine | None, tiles: tuple[int, ...], first: int
) -> None:
    seeds = range(first, first + NETWORKS)
    integer_nets.check(integer_nets.drawn(seeds, 3), machine or native(), tiles=tiles)


def test_tiles_that_are_not_full_equal_their_references() -> None:
    integer_nets.check(integer_nets.drawn(range(12), 4), native(), tiles=(0, 1))
    integer_nets.check(integer_nets.drawn(range(20, 22), 4), native(), tiles=(0, 4))


@pytest.mark.parametrize(
    ("machine", "sums"),
    [(None, 24), (None, 16), (None, 5), (Machine(8, 16), 10), (Machine(4, 32), 2)],
    ids=str,
)
def test_layers_that_skip_zeros_equal_their_references(machine: Machine | None, sums: int) -> None:
    seeds = range(100 * sums, 100 * sums + 8)
    network = integer_nets.check(integer_nets.drawn(seeds, 2), machine or native(), skipping=sums)
    assert "sec_quad_sparse_tile(&v" in pipeline.source_of(network, "tested").model


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_steps_of_weights_are_found_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, rng.integers(2, 5)))
    whole = rng.integers(-128, 128, shape) * (rng.random(shape) < rng.choice([0.05, 1]))
    steps = np.exp(rng.uniform(-12, 3, shape[0])).astype(np.float32)
    weight = whole.astype(np.float32) * steps.reshape(-1, *(1,) * (len(shape) - 1))
    found = grids.of_weights(weight)
    assert found is not None
    again, its = found
    assert again.dtype == np.int8
    np.testing.assert_array_equal(
        again.astype(np.float32) * its.reshape(-1, *(1,) * (len(shape) - 1)), weight
    )
    weight.flat[0] += np.float32(0.3) * steps[0] + (weight.flat[0] == 0)
    if weight.shape[1:] != (1,) * (len(shape) - 1):
        moved = grids.of_weights(weight)
        assert moved is None or np.array_equal(
            moved[0].astype(np.float32) * moved[1].reshape(-1, *(1,) * (len(shape) - 1)), weight
        )
