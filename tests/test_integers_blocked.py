"""Linear layers on quads at one position whose outputs read the same words: to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import integer_nets
from integer_nets import QuantisedNet
from secateur.compiler import choice, pipeline, toolchain
from secateur.compiler.kernels import Machine, quad_single
from test_integers_targets import SAMPLES, X86, crossed, native_target, of_program

SIZES = ((33, 70, 0.3), (200, 96, 0.1), (64, 16, 0.0), (512, 40, 0.1), (24, 5, 0.6), (4, 128, 1.0))
"""Inputs, outputs, and the share of blocks of sixteen outputs and four inputs that have weights."""


def layers(net: QuantisedNet) -> None:
    rng = np.random.default_rng(5)
    for number, (inputs, outputs, share) in enumerate(SIZES):
        x = net.rounded(net.input(inputs), 2.0**-6, 100)
        whole = rng.integers(-128, 128, (inputs, outputs))
        there = rng.random((-(-inputs // 4), -(-outputs // 16))) < share
        whole *= there.repeat(4, 0).repeat(16, 1)[:inputs, :outputs]
        whole[:, 0] = 0  # an output that has nothing of its own
        whole[0, -1] = 1
        y = net.add("MatMul", x, net.constant((whole * 2.0**-8).astype(np.float32)))
        y = net.add("Add", y, net.constant(rng.integers(-9, 9, outputs).astype(np.float32)))
        if number % 2:
            y = net.add("Relu", y)
        net.keep(net.rounded(y, 2.0**-2, 7) if number < 4 else y)
        net.whole["layer"] += 1


@pytest.mark.parametrize("name", ["AVX2 alone", "AVX-512 VNNI", "plain C"])
def test_every_instruction_set_gives_the_same(name: str) -> None:
    target = native_target(name)
    machine = Machine(target.lanes, X86[name][1])
    network = integer_nets.check(layers, machine, target, skipping=8)
    assert pipeline.source_of(network, "tested").model.count("sec_quad_blocked_layer(") == len(
        SIZES
    )


def test_levels_less_128_give_the_same(tmp_path: Path) -> None:
    target, command = crossed("aarch64-dotprod")
    network = integer_nets.programs(layers, Machine(target.lanes, target.registers), skipping=8)
    arrays = integer_nets.arrays_for(network, SAMPLES)
    got = of_program(network, target, command, arrays, tmp_path)
    integer_nets.same(network, got, integer_nets.wanted(network, arrays), "aarch64-dotprod")


def test_they_are_chosen_where_blocks_are_cut_and_not_where_words_are() -> None:
    machine = Machine(toolchain.native().lanes, toolchain.native().registers)
    network = integer_nets.programs(layers, machine, tiles=(0,))
    chosen = choice.sparse(network.graphs[0], network.programs, machine)
    sizes = [
        network.graphs[0].types[n.inputs[1]].shape
        for n in network.graphs[0].nodes
        if n.name in chosen
    ]
    skipped = {shape: chosen[name] > 0 for shape, name in zip(sizes, chosen, strict=True)}
    assert skipped[(96, 200)]
    assert not skipped[(128, 4)]


def test_a_word_that_any_of_sixteen_outputs_has_is_read_once() -> None:
    weight = np.zeros((20, 32, 1), np.int32)
    weight[3, 5] = weight[4, 9] = weight[7, 5] = weight[19, 2] = 1
    found = quad_single.lines(weight)
    assert (found.first.tolist(), found.index.tolist()) == ([0, 2, 3], [5, 9, 2])
