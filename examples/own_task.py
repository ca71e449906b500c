"""A study of your own network, data and metric: a Task is all it takes.

python examples/own_task.py

The network is a plain torch module and the data a plain class with four methods; nothing of it
is known to secateur. It fits two moons of points, which takes seconds.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import secateur


class Moons:
    """Two interleaved half circles with noise, made anew for every split."""

    def __init__(self, device: torch.device) -> None:
        self.train, self.validation, self.test = (
            tuple(t.to(device) for t in moons(count, seed))
            for seed, count in enumerate((4000, 1000, 2000))
        )

    def batches_per_epoch(self, batch_size: int) -> int:
        return len(self.train[0]) // batch_size

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        points, labels = self.train
        order = torch.randperm(len(points), generator=generator).to(points.device)
        for batch in order.split(batch_size)[: self.batches_per_epoch(batch_size)]:
            yield points[batch], labels[batch]

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        order = torch.randperm(len(self.train[0]), generator=generator)[:count]
        yield from self.train[0][order.to(self.train[0].device)].split(batch_size)

    def evaluation(self, split: str, batch_size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        points, labels = self.validation if split == "validation" else self.test
        yield from zip(points.split(batch_size), labels.split(batch_size), strict=True)


def moons(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = torch.rand(count, generator=generator) * torch.pi
    side = 1.0 - 2.0 * labels
    points = torch.stack([side * angle.cos() + labels, side * angle.sin() + labels / 2], 1)
    return points + 0.2 * torch.randn(points.shape, generator=generator), labels


def network() -> nn.Module:
    hidden = 64
    return nn.Sequential(
        *(nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU()),
        nn.Linear(hidden, 2),
    )


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float() * 100


task = secateur.Task(
    name="moons",
    model=network,
    data=Moons,
    loss=nn.functional.cross_entropy,
    metric=secateur.Metric("accuracy", "%", correct),
    description={"data": "moons 4000", "hidden": 64},
)

if __name__ == "__main__":
    study = secateur.Study(
        task, keep=(0.5, 0.2, 0.1, 0.05), epochs=5, gate_epochs=5, calibration=1000
    )
    results = study.run()
    for row in results.summary.rows:
        if row.recovery == "batchnorm":
            print(f"{row.criterion:9} keeps {row.keep:4.0%}: {row.test.mean:.1f} %")
    print("report:", results.files.html)
