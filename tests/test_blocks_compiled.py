"""Layers whose outputs side by side read the same inputs: the kernel made for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur
from secateur.compiler import pipeline
from secateur.export import to_onnx


def compiled(net: nn.Module, inputs: int) -> pipeline.Compiled:
    return pipeline.compile_network(to_onnx(net.eval(), torch.zeros(2, inputs)))


def uses_blocks(found: pipeline.Compiled) -> bool:
    return "sec_blocked_layer(s" in found.source.model


def check(net: nn.Module, inputs: int, engine: secateur.Engine) -> None:
    for count in (1, 2, 3, 16, 35):
        x = np.random.default_rng(count).standard_normal((count, inputs)).astype(np.float32)
        with torch.no_grad():
            wanted = net(torch.from_numpy(x)).numpy()
        got = engine(x)
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(initial=1e-6)


@settings(max_examples=8, deadline=None)
@given(
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 70),
    rows=st.sampled_from([5, 8, 16, 40]),
    keep=st.sampled_from([0.03, 0.2, 0.5]),
    seed=st.integers(0, 99),
)
def test_any_size_and_any_groups(
    inputs: int, outputs: int, rows: int, keep: float, seed: int
) -> None:
    """Groups of other than sixteen, groups without a non-zero, and rows of odd numbers."""
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    blocks = torch.rand(-(-outputs // rows), inputs) < keep
    blocks[torch.rand(len(blocks)) < 0.3] = False
    blocks[0, :1] = True
    with torch.no_grad():
        layer.weight.mul_(blocks.repeat_interleave(rows, dim=0)[:outputs])
        layer.weight[0, 0] = 1.0
    net = nn.Sequential(layer, nn.ReLU())
    found = compiled(net, inputs)
    with found.engine(threads=2) as engine:
        check(net, inputs, engine)


def test_what_prune_leaves_goes_there_and_one_more_weight_does_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 96), nn.ReLU(), nn.Linear(96, 40))
    plan = secateur.prunable(net, include_first=True)
    pruned, result = secateur.prune(net, 0.2, pattern="16x1", plan=plan)
    assert result.masks.kept < 0.25 * result.masks.total
    found = compiled(pruned, 200)
    assert uses_blocks(found)
    with found.engine(threads=3) as engine:
        check(pruned, 200, engine)
    other = secateur.prune(net, 0.2, plan=plan)[0]
    assert not uses_blocks(compiled(other, 200))


def test_outputs_that_nobody_reads_leave_smaller_groups() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(192, 160), nn.ReLU(), nn.Linear(160, 32))
    plan = secateur.prunable(net, include_first=True)
    pruned, _ = secateur.prune(net, 0.1, pattern="16x1", plan=plan)
    with torch.no_grad():
        pruned.get_parameter("2.weight")[:, 3::5] = 0  # each takes an output out of a group
    found = compiled(pruned, 192)
    assert uses_blocks(found)
    with found.engine(threads=2) as engine:
        check(pruned, 192, engine)


def test_residuals_and_activations_meet_the_blocks() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.leaky_relu(x + self.two(torch.relu(self.one(x))), 0.1)

    net = Residual()
    plan = secateur.prunable(net, include_first=True)
    pruned, _ = secateur.prune(net, 0.1, pattern="16x1", plan=plan)
    found = compiled(pruned, 64)
    assert uses_blocks(found)
    with found.engine() as engine:
        check(pruned, 64, engine)


@pytest.mark.parametrize("count", [1, 70])
def test_infinities_are_not_multiplied_with_zeros_that_were_cut(count: int) -> None:
    layer = nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 4::11] = 1.0
    x = np.zeros((count, 64), np.float32)
    x[:, 5] = np.inf  # of an input that nothing reads
    with secateur.compile(layer.eval(), torch.zeros(2, 64)) as engine:
        assert np.isfinite(engine(x)).all()
