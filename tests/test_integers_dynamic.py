"""Scales that are known at run time: products in integers give what references give, to the bit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamic_nets
from kernel_nets import FEW
from secateur.compiler.kernels import Machine
from test_integers import native

NETWORKS = 6
"""Of each machine: all are compiled at once."""


@pytest.mark.parametrize(
    ("machine", "samples"), [(None, 3), (Machine(8, 16), 1), (Machine(4, 32), 5)], ids=str
)
@settings(FEW, max_examples=1)
@given(first=st.integers(0, 2**32))
def test_random_networks_equal_their_references(
    machine: Machine | None, samples: int, first: int
) -> None:
    seeds = range(first, first + NETWORKS)
    dynamic_nets.check(dynamic_nets.network(seeds, machine or native(), samples))


def test_layers_that_skip_zeros_equal_their_references() -> None:
    dynamic_nets.check(dynamic_nets.network(range(100, 100 + NETWORKS), native(), skipping=16))
