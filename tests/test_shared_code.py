"""Layers that differ in numbers alone share their code."""

from __future__ import annotations

import re

import torch

import secateur
from secateur.compiler import pipeline, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare


class Residual(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.second = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.second(torch.relu(self.first(x)))
        return torch.relu(x + inner)


def test_the_factor_of_a_residual_lies_with_the_weights() -> None:
    torch.manual_seed(0)
    blocks = [Residual(8) for _ in range(3)]
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), *blocks).eval()
    made = secateur.quantize(module, torch.randn(16, 3, 8, 8))
    machine = toolchain.native()
    network = prepare(made.content, Machine(machine.lanes, machine.registers, machine.matrix))
    text = pipeline.source_of(network, "net").model
    made_of = re.findall(r"sec_levels levels = \{(.*)\};", text)
    # a function of tiles, which layers share, gets them from its layer
    of_layers = [fields for fields in made_of if not fields.startswith("w->levels->")]
    residuals = [tuple(fields.split(", ")[3:5]) for fields in of_layers]
    assert any(zero != "0x0.0p+0f" for zero, _ in residuals)
    for pair in residuals:
        assert all(text == "0x0.0p+0f" or text.startswith("*(const float *)") for text in pair)
    for fields in set(made_of) - set(of_layers):
        assert fields.split(", ")[3:5] == ["w->levels->res_zero", "w->levels->res_factor"]
