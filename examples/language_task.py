"""A study of a small language model, measured by its loss: lower is better.

python examples/language_task.py
secateur study examples/language_task.py:task --keep 0.5,0.3,0.2 --rate 1 --gate-rate 0.3

A recurrent network reads sentences of a small grammar letter by letter and says what comes next.
It returns a tuple, so the task says which part of it the loss and the metric are of.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

import secateur
from secateur.study.metrics import CROSS_ENTROPY

LETTERS = " .abcdefghijklmnopqrstuvwxyz"
LENGTH = 32
NOUNS = ("gardener", "robin", "pear tree", "hedge", "spade")
VERBS = ("cuts", "sees", "likes", "finds")
ADJECTIVES = ("old", "green", "small", "quiet")


class Text:
    """Windows of text, and the same ones a letter later."""

    def __init__(self, device: torch.device) -> None:
        self.train, self.validation, self.test = (
            windows(text(count, seed)).to(device) for seed, count in enumerate((900, 200, 400))
        )

    def batches_per_epoch(self, batch_size: int) -> int:
        return len(self.train) // batch_size

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.train), generator=generator).to(self.train.device)
        for batch in order.split(batch_size)[: self.batches_per_epoch(batch_size)]:
            yield self.train[batch, :-1], self.train[batch, 1:]

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        order = torch.randperm(len(self.train), generator=generator)[:count]
        yield from self.train[order.to(self.train.device), :-1].split(batch_size)

    def evaluation(self, split: str, batch_size: int = 1000) -> Iterator[tuple[Tensor, Tensor]]:
        held_out = self.validation if split == "validation" else self.test
        for batch in held_out.split(batch_size):
            yield batch[:, :-1], batch[:, 1:]


def text(sentences: int, seed: int) -> str:
    draw = random.Random(seed)

    def thing() -> str:
        adjective = draw.choice(ADJECTIVES) + " " if draw.random() < 0.5 else ""
        return f"the {adjective}{draw.choice(NOUNS)}"

    return " ".join(f"{thing()} {draw.choice(VERBS)} {thing()}." for _ in range(sentences))


def windows(letters: str) -> Tensor:
    codes = torch.tensor([LETTERS.index(letter) for letter in letters])
    return codes.unfold(0, LENGTH + 1, LENGTH).clone()


class Network(nn.Module):
    """Letters [N, T] → (scores of the next letter [N, T, letters], state)."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 16)
        self.recurrent = nn.GRU(16, hidden, batch_first=True)
        self.mixed = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, len(LETTERS))

    def forward(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.recurrent(self.embedding(letters))
        return self.head(torch.relu(self.mixed(states))), last


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


task = secateur.Task(
    name="small-grammar",
    model=Network,
    data=Text,
    loss=loss,
    output=lambda given: given[0],
    metric=replace(CROSS_ENTROPY, unit="nats per letter", margin=0.02),  # perplexity + 2 %
    description={"sentences": 900, "length": LENGTH, "hidden": 48},
)

if __name__ == "__main__":
    study = secateur.Study(
        task, keep=(0.5, 0.3, 0.2), epochs=8, gate_epochs=5, rate=1.0, gate_rate=0.3
    )
    results = study.run()
    for row in results.summary.rows:
        if row.recovery == "none":
            print(f"{row.criterion:9} keeps {row.keep:4.0%}: {row.test.mean:.3f} nats per letter")
    print("report:", results.files.html)
