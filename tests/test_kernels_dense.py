"""Layers that keep their zeros: depthwise windows of any form, weights of many or few outputs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel_harness
from kernel_nets import FEW, MACHINES, NONE, Build, Net, check, programs, several
from secateur.compiler import pipeline
from secateur.compiler.kernels import Machine


@st.composite
def depthwise(draw: st.DrawFn) -> Build:
    """A depthwise convolution of one or two axes, with or without a bias, a residual, an end."""
    rank = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 8)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    plane = tuple(draw(st.integers(r, r + 20)) for r in reach)
    window: dict[str, Any] = {
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(rank)), "dilations": dilations,
        "pads": tuple(draw(st.integers(0, (k - 1) // 2)) for _ in range(2) for k in kernel),
    }  # fmt: skip
    channels, cut = draw(st.integers(1, 5)), draw(st.booleans())
    biased, added, relu = (draw(st.booleans()) for _ in range(3))
    end = {**NONE, "activation": "Relu"} if relu else NONE

    def build(net: Net) -> None:
        x = (net.plane if cut else net.input)(channels, *plane)
        w = net.normal(channels, 1, *kernel)
        b = net.normal(channels) if biased else ""
        y = net.add("FusedConv", x, w, b, "", group=channels, **window, **NONE)
        if added:  # to what the layer gave before
            y = net.add("FusedConv", x, w, b, y, group=channels, **window, **end)
        net.keep(y)

    return build


@FEW
@given(several(depthwise(), 16), MACHINES)
def test_depthwise_convolutions_equal_their_reference(
    build: Build, machine: Machine | None
) -> None:
    check(build, machine)


@pytest.mark.parametrize("machine", [None, Machine(8, 16), Machine(4, 32)])
def test_linear_layers_of_one_position_equal_their_reference(machine: Machine | None) -> None:
    def build(net: Net) -> None:
        for inputs, outputs in ((1, 1), (7, 15), (33, 16), (64, 130), (5, 200)):
            x = net.input(inputs)
            y = net.add(
                "FusedLinear", x, net.normal(outputs, inputs), net.normal(outputs), "", **NONE
            )
            net.keep(y)
            net.keep(net.add("FusedLinear", y, net.normal(9, outputs), "", "", **NONE))

    check(build, machine, tiles=4)


def test_many_weights_are_read_once_for_all_positions() -> None:
    def build(net: Net) -> None:
        x = net.linear(net.input(200, 30), 600)
        net.keep(net.add("FusedLinear", x, net.normal(600, 600), net.normal(600), "", **NONE))
        plane = net.plane(130, 18, 20)
        window = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
        net.keep(net.add("FusedConv", plane, net.normal(230, 130, 3, 3), "", "", **window, **NONE))

    network, _ = programs(build, kernel_harness.machine(), None)
    model = pipeline.source_of(network, "tested").model
    assert len(re.findall(r"sec_dense_layer\(.* 1\);", model)) == 2
    check(build, tiles=None, tolerance=1e-4)
