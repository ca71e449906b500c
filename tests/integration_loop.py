"""The training that tests of integrations compare others with, written out by hand."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.selecting.budget import Budget

PHASE = GatePhase(lowest_keep=0.1, gate_rate=5.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


TOTAL = 16 * 16 + 16 * 3


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 6, generator=generator)
    return TensorDataset(x, (x[:, :3] + x[:, 3:]).argmax(1))


def loader() -> DataLoader[Any]:
    return DataLoader(samples(), batch_size=8)


def by_hand(epochs: int, gate_start: int, prune_at: int, keep: float) -> tuple[nn.Module, Any]:
    """Train what the frameworks train, in a plain loop: two micro-batches a step, clipped."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01)
    gating, masks = None, None
    for epoch in range(epochs + 1):
        if epoch == gate_start:
            gating = GateTraining(model, optimizer, phase=PHASE)
        if epoch == prune_at:
            assert gating is not None
            masks, gating = gating.finish(Budget(keep)), None
            MaskHold(model, optimizer, masks)
        for number, (x, y) in enumerate(loader() if epoch < epochs else ()):
            with gating.step() if gating else nullcontext():
                (cross_entropy(model(x), y) / 2).backward()
            if number % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    return model, masks


def nonzero(model: nn.Module, names: Any) -> int:
    return int(sum((model.get_parameter(name) != 0).sum() for name in names))


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
