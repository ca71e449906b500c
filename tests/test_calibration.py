"""What a calibration set refuses, and says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur import Calibration
from secateur.errors import UsageError


def batch(count: int = 40, *shape: int) -> torch.Tensor:
    return torch.zeros(count, *(shape or (3,)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "is empty"),
        ((batch(20), batch(20, 4)), r"batch 1 .* is float32 \[20, 4\], but the first"),
        ((batch(20), batch(20).double()), "batch 1 .* is float64"),
        ((batch(40), batch(40).to("meta")), "batch 1 .* lies on meta, the first on cpu"),
        ((batch(20), batch(20) / 0), "batch 1 .* not finite"),
        (([1, 2, 3],), "batch 0 .* is no tensor"),
        ((torch.tensor(1.0),), "batch 0 .* is no tensor"),
    ],
)
def test_unusable_inputs_are_named(inputs: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration(inputs)


def test_targets_must_fit_the_inputs() -> None:
    for targets in ((batch(39),), (batch(20), batch(20))):
        with pytest.raises(UsageError, match="give every input its target"):
            Calibration((batch(40),), targets)


def test_the_first_samples_keep_their_targets() -> None:
    inputs = tuple(torch.arange(120.0).view(3, 40))
    data = Calibration(inputs, tuple(-x for x in inputs)).first(70)
    assert data.count == 70
    assert torch.equal(torch.cat(data.inputs), torch.arange(70.0))
    assert torch.equal(torch.cat(data.targets), -torch.arange(70.0))
    assert data.first(1000).count == 70
    with pytest.warns(UserWarning, match="has 10 samples, and fewer than 32"):
        assert data.first(10).count == 10


def test_few_samples_warn_and_work() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    for count in (1, 31):
        with pytest.warns(UserWarning, match=f"has {count} sample"):
            _, result = secateur.prune(model, 0.5, criterion="wanda", data=batch(count) + 1)
        assert result.weights.after == 8


class Reader(nn.Module):
    """Takes as many texts as samples, and may take a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(
        self, x: torch.Tensor, texts: Any = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert texts is None or (isinstance(texts, (list, tuple)) and len(texts) == len(x))
        return self.layers(x if mask is None else x * mask[:, None])


LABELS = torch.arange(40) % 2
NAMES = [f"{i}.jpg" for i in range(40)]


@pytest.mark.parametrize(
    "batches",
    [
        [({"x": batch() + 1, "texts": NAMES}, LABELS)],
        [({"x": batch() + 1, "texts": [*NAMES[1:], None], "mask": None}, LABELS)] * 2,
        [((batch() + 1, tuple(NAMES)), LABELS)],
        [(batch() + 1, LABELS, NAMES)],
        [(batch() + 1, LABELS, tuple(NAMES), None)],
        [({"x": batch() + 1, "file": NAMES}, LABELS)],  # forward has no such argument
        [
            ({"x": batch() + 1, "mask": None}, LABELS),
            ({"x": batch() + 1, "mask": batch(40)[:, 0] + 1}, LABELS),
        ],
    ],
)
def test_texts_and_none_beside_samples(batches: list[Any]) -> None:
    for criterion in ("wanda", "taylor"):  # one example is taken, and batches are divided
        _, result = secateur.prune(
            Reader(), 0.5, criterion=criterion, data=batches, loss=nn.functional.cross_entropy
        )
        assert result.weights.after == 8


def test_samples_without_targets() -> None:
    assert Calibration.of([(batch(), None)]).targets == ()
    assert (
        Calibration.of([{"x": batch(), "texts": NAMES}], samples=33).inputs[0]["texts"]
        == (NAMES[:33])
    )


def test_it_takes_the_first_samples_of_any_form() -> None:
    inputs, targets = torch.randn(70, 3), torch.arange(70)
    pairs = list(zip(inputs.split(20), targets.split(20), strict=True))
    loss = nn.functional.cross_entropy
    for data in (inputs, {"x": inputs}, inputs.split(20), [(x,) for x in inputs.split(20)], pairs):
        taken = Calibration.of(data, loss, samples=50, autocast=True)
        assert taken.count == 50
        assert (taken.loss, taken.autocast) == (loss, True)
        given = [x["x"] if isinstance(x, dict) else x for x in taken.inputs]
        assert torch.equal(torch.cat(given), inputs[:50])
        labels = torch.cat(taken.targets) if data is pairs else targets[:50]
        assert torch.equal(labels, targets[:50])
        assert bool(taken.targets) == (data is pairs)
        assert Calibration.of(taken) is taken
    assert Calibration.of(inputs).count == 70
    endless = iter(lambda: inputs, None)
    assert Calibration.of(endless, samples=100).count == 100


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([("text", batch())], r"\(str, Tensor\)"),
        ([(batch(), batch(), batch())], r"\(Tensor, Tensor, Tensor\)"),
        ([(batch(), [1] * 40)], r"\(Tensor, list\)"),
        ([torch.tensor(1.0)], r"\(Tensor\)"),
        ([(batch(), torch.tensor(1))], "batch 0 of targets"),
        ([], "is empty"),
    ],
)
def test_a_batch_that_is_none_is_named(batches: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration.of(batches)


def test_it_is_tried_on_the_model_and_leaves_it_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = Calibration((batch(),))
    data.check(model)
    assert model.training
    assert int(model[0].num_batches_tracked) == 0
    assert data.example.shape == (1, 3)
    with pytest.raises(UsageError, match=r"does not take .* float32 \[N, 3\]"):
        data.check(nn.Linear(4, 2))
    asserting = nn.MultiheadAttention(4, 2)
    asserting.forward = lambda x: nn.MultiheadAttention.forward(asserting, x, x, x)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"does not take .* embedding dimension"):
        data.check(asserting)
    with pytest.raises(UsageError, match="set lies on cpu, the model on meta"):
        data.check(nn.Linear(3, 2, device="meta"))


def test_what_a_model_keeps_of_its_first_pass_can_be_trained_with() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 2), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.scale is None:
                self.scale = torch.ones(2)
            return self.linear(x) * self.scale

    model = Remembers()
    Calibration((batch(),)).check(model)
    model(batch()).sum().backward()
    assert model.linear.weight.grad is not None
