"""A study of a regression, with a training loop of its own: lower is better.

python examples/regression_task.py
secateur study examples/regression_task.py:task --keep 0.5,0.2,0.1,0.05

The network learns a smooth function of eight numbers from noisy values. The loop is a plain one
with an optimizer of its own choice; what it takes beside model, data, recipe and loss are the
places where a study cuts and holds masks.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.study.metrics import MEAN_SQUARED_ERROR

NOISE = 0.1


def data(device: torch.device) -> secateur.LoaderData:
    """Return points in eight dimensions with a noisy function of them, in loaders."""
    training, validation, test = (
        DataLoader(TensorDataset(*points(count, seed)), 128, shuffle=seed == 0)
        for seed, count in enumerate((4000, 1000, 2000))
    )
    return secateur.LoaderData(training, validation=validation, test=test, device=device)


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((count, 8), generator=generator) * 2 - 1
    smooth = torch.sin(2 * x[:, 0] * x[:, 1]) + x[:, 2:5].square().sum(1) + x[:, 5] - x[:, 6]
    return x, (smooth + NOISE * torch.randn(count, generator=generator))[:, None]


def network() -> nn.Module:
    hidden = 64
    return nn.Sequential(
        *(nn.Linear(8, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, 1),
    )


def train(
    model: nn.Module,
    data: secateur.LoaderData,
    recipe: secateur.Recipe,
    loss: nn.Module,
    *,
    seed: int,
    pruning,
) -> None:
    """Any loop, with any optimizer: `pruning` around forward and backward is all a study asks."""
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    steps = recipe.epochs * data.batches_per_epoch(recipe.batch_size)
    fading = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(recipe.epochs):
        for inputs, values in data.epoch(recipe.batch_size, generator):
            optimizer.zero_grad()
            with pruning(optimizer):
                loss(model(inputs), values).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            fading.step()


task = secateur.Task(
    name="eight-numbers",
    model=network,
    data=data,
    loss=nn.functional.mse_loss,
    # The noise alone makes 0.01 of any network's error; as much again counts as no worse here.
    metric=replace(MEAN_SQUARED_ERROR, margin=NOISE**2),
    description={"points": 4000, "noise": NOISE, "hidden": 64, "training": "adam, 0.005"},
    train=train,
)

if __name__ == "__main__":
    study = secateur.Study(task, keep=(0.5, 0.2, 0.1, 0.05), epochs=8, gate_epochs=8)
    results = study.run()
    for row in results.summary.rows:
        if row.recovery == "none":
            print(f"{row.criterion:9} keeps {row.keep:4.0%}: {row.test.mean:.4f}")
    print("report:", results.files.html)
