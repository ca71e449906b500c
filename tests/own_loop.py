"""A small network, and a training loop of one's own in which its gates learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.pruning.gates.gate_training import GateTraining


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3)),
    )


def batch(seed: int, size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 6, generator=generator)
    return x, torch.randint(0, 3, (size,), generator=generator)


def sgd(model: nn.Module, decay: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=decay, nesterov=True)


def adamw(model: nn.Module, decay: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 0.01, weight_decay=decay)


def run(
    gating: GateTraining, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range
) -> None:
    for step in steps:
        x, y = batch(step)
        with gating.step():
            cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def everything(model: nn.Module, gating: GateTraining) -> dict[str, Tensor]:
    gates = gating.state_dict()["gates"]
    return {**model.state_dict(), **{f"{name}_gate": gate for name, gate in gates.items()}}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
