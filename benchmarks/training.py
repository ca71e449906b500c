"""secateur's training against the loop a user would write: same net, same epochs, same machine.

    python benchmarks/training.py [--epochs 8] [--seeds 1] [--data-dir DIR]

The user's loop is the one of any tutorial: fp32, a `Dataset` that augments one image at a time,
a torch `DataLoader`. Both get the same recipe and the same augmentation. They are run in turn,
once per seed; printed are seconds, test accuracy, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from secateur import Recipe, machine, train
from secateur.data import load
from secateur.data.images import ImageData
from secateur.measure.accuracy import evaluate
from secateur.nets import build
from secateur.study.task import percent_correct

GOAL = 3.0


class Images(Dataset[tuple[Tensor, int]]):
    """One augmented image at a time, as a tutorial's data set gives them."""

    def __init__(self, data: ImageData) -> None:
        self.images = data.train.images.permute(0, 3, 1, 2).contiguous()
        self.labels = data.train.labels.tolist()
        self.mean = torch.tensor(data.mean)[:, None, None]
        self.std = torch.tensor(data.std)[:, None, None]
        self.pad = data.augmentation.pad
        self.size = self.images.shape[-1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index].float() / 255
        image = F.pad(image[None], (self.pad,) * 4, mode="reflect")[0]
        top, left = torch.randint(0, 2 * self.pad + 1, (2,)).tolist()
        image = image[:, top : top + self.size, left : left + self.size]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image - self.mean) / self.std, self.labels[index]


def users_loop(model: nn.Module, data: ImageData, recipe: Recipe) -> None:
    """Train as a tutorial does."""
    loader = DataLoader(Images(data), recipe.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(
        model.parameters(),
        recipe.rate,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    total = recipe.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: recipe.rate_at(min(step, total - 1) / total) / recipe.rate
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for _ in range(recipe.epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--net", default="convnet")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    data = load("cifar10", data_dir=arguments.data_dir)
    recipe = Recipe(epochs=arguments.epochs)
    results: dict[str, list[tuple[float, float]]] = {"user's loop": [], "secateur": []}
    for seed in range(arguments.seeds):
        for name, rows in results.items():
            torch.manual_seed(seed)
            model = build(arguments.net)
            start = time.perf_counter()
            if name == "secateur":
                model.to(memory_format=torch.channels_last)
                train(model, data, recipe, nn.CrossEntropyLoss(label_smoothing=0.1), seed=seed)
            else:
                users_loop(model, data, recipe)
            seconds = time.perf_counter() - start
            rows.append((seconds, evaluate(model, data.evaluation("test"), percent_correct)))
    view = Table(
        "loop", "seconds", "test accuracy %",
        title=f"{arguments.net}, {arguments.epochs} epochs, n={arguments.seeds}, "
        f"{machine.describe()['cpu']}, {torch.get_num_threads()} threads, "
        f"{datetime.now(UTC):%Y-%m-%d}",
    )  # fmt: skip
    for name, rows in results.items():
        seconds, accuracy = (statistics.median(column) for column in zip(*rows, strict=True))
        view.add_row(name, f"{seconds:.0f}", f"{accuracy:.2f}")
    ratio = statistics.median(
        user[0] / ours[0] for user, ours in zip(*results.values(), strict=True)
    )
    Console().print(view, f"secateur is {ratio:.2f} times as fast (goal: {GOAL:g})")
    return ratio < GOAL


if __name__ == "__main__":
    raise SystemExit(main())
