"""How far gates move what is kept, under SGD and AdamW, by the gates' own rate.

    python benchmarks/adam_gates.py

An MLP on the digits, 8 plain epochs and 12 of gates, keep ratio 0.05, 4 seeds: the fraction of
what is kept that magnitude would not have kept, the loss on the training images when the same
weights are cut by the learned order and by magnitude, and the accuracy of the learned cut on the
140 validation images.
"""

from __future__ import annotations

import copy
import statistics
from datetime import UTC, datetime

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur import Budget, GatePhase, GateTraining, data, machine, select

SEEDS = 4
PLAIN, GATED = 8, 12
BUDGET = Budget(0.05)
WAYS: tuple[tuple[str, float, float | None], ...] = (
    ("SGD", 0.1, None),
    ("AdamW", 1e-3, 3.0),
    ("AdamW", 1e-3, 300.0),
    ("AdamW", 1e-3, None),
    ("AdamW", 2e-4, 3.0),
    ("AdamW", 2e-4, 300.0),
    ("AdamW", 2e-4, None),
    ("AdamW", 5e-3, 3.0),
    ("AdamW", 5e-3, 300.0),
    ("AdamW", 5e-3, None),
)


def main() -> int:
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.describe()['cpu']}, n = {SEEDS}")
    for kind, rate, multiple in WAYS:
        runs = [run(kind, rate, multiple, seed) for seed in range(SEEDS)]
        moved, ours, theirs, accuracy = map(statistics.mean, zip(*runs, strict=True))
        print(
            f"{kind} at {rate:g}, gate_rate {multiple}: {moved:.1%} of what is kept differs from "
            f"magnitude's, loss {ours:.3f} against {theirs:.3f}, accuracy {accuracy:.1f} %",
            flush=True,
        )
    return 0


def run(kind: str, rate: float, multiple: float | None, seed: int) -> tuple[float, ...]:
    """Return the fraction that differs, the losses of both cuts, and the accuracy in %."""
    digits = data.load("digits")
    x, y = digits.train.images.flatten(1) / 255, digits.train.labels
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU()), *(nn.Linear(128, 128), nn.ReLU()), nn.Linear(128, 10)
    )
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), rate)
    if kind == "SGD":
        optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4)
    for _ in range(PLAIN):
        for batch in torch.randperm(len(x)).split(64):
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    gating = GateTraining(model, optimizer, phase=GatePhase(gate_rate=multiple))
    for _ in range(GATED):
        for batch in torch.randperm(len(x)).split(64):
            with gating.step():
                cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    sizes = {name: model.get_parameter(name).detach().abs() for name in gating.plan.names}
    plain = select(sizes, BUDGET)
    by_size = copy.deepcopy(model)
    plain.apply(by_size)
    masks = gating.finish(BUDGET)
    both = sum(int((mask & plain[name]).sum()) for name, mask in masks.items())
    held = digits.validation
    with torch.no_grad():
        losses = [float(cross_entropy(cut(x), y)) for cut in (model, by_size)]
        answers = model(held.images.flatten(1) / 255).argmax(1)
    return 1 - both / masks.kept, *losses, 100 * float((answers == held.labels).float().mean())


if __name__ == "__main__":
    raise SystemExit(main())
