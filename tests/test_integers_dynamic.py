"""Scales that are known at run time: products in integers give what references give, to the bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dynamic_nets
from kernel_nets import FEW
from secateur.compiler.kernels import Machine
from test_integers import native

NETWORKS = 10


@pytest.mark.parametrize("machine", [None, Machine(8, 16), Machine(4, 32)], ids=str)
@FEW
@given(first=st.integers(0, 2**32), samples=st.integers(1, 5))
def test_random_networks_equal_their_references(
    machine: Machine | None, first: int, samples: int
) -> None:
    seeds = range(first, first + NETWORKS)
    dynamic_nets.check(dynamic_nets.network(seeds, machine or native(), samples))


def test_layers_that_skip_zeros_equal_their_references() -> None:
    dynamic_nets.check(dynamic_nets.network(range(12), native(), skipping=16))
