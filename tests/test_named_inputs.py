"""Calibration data of several arguments: the same scores and repairs as of one tensor."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur import Budget, Calibration, prunable, prune, select
from secateur.distillation import SoftTargets, distilled
from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.study.task import percent_correct


class Both(nn.Module):
    """Takes two arguments, and labels of which it gives its own loss, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 16), nn.Linear(4, 16)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 3)

    def logits(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.norm(self.left(a) + self.right(b))))
        return out

    def forward(self, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.logits(a, b)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


class Joined(nn.Module):
    """The same network of one tensor, for reference."""

    def __init__(self, inner: Both) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.logits(x[:, :6], x[:, 6:])


class Logits(Both):
    """The two arguments, and one tensor as the output."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return self.logits(a, b)


torch.manual_seed(1)
X, Y = torch.randn(96, 10), torch.randint(3, (96,))
A, B = X[:, :6].clone(), X[:, 6:].clone()
NAMED = [{"a": A[i : i + 32], "b": B[i : i + 32]} for i in (0, 32, 64)]
LABELLED = [{**batch, "labels": Y[32 * i : 32 * i + 32]} for i, batch in enumerate(NAMED)]
JOINED = tuple(torch.split(X, 32))


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "obs"])
def test_scores_are_those_of_one_tensor(criterion: str) -> None:
    model = Both()
    names = prunable(model).names
    whole = Calibration(JOINED, tuple(torch.split(Y, 32)), F.cross_entropy)
    inner = [f"inner.{name}" for name in names]
    wanted = CRITERIA[criterion].scores(Joined(model), inner, calibration=whole)
    found = CRITERIA[criterion].scores(model, names, calibration=Calibration(tuple(LABELLED)))
    pairs = [(a, b) for a, b in zip(torch.split(A, 32), torch.split(B, 32), strict=True)]
    of_pairs = Calibration(tuple(pairs), whole.targets, F.cross_entropy)
    twice = CRITERIA[criterion].scores(Logits(), names, calibration=of_pairs)
    for name in names:
        assert torch.equal(found[name], wanted[f"inner.{name}"])
        assert torch.equal(twice[name], wanted[f"inner.{name}"])


def test_reconstruction_is_that_of_one_tensor() -> None:
    named, joined = Both().eval(), Joined(Both()).eval()
    masks = select(CRITERIA["magnitude"].scores(named, prunable(named).names), Budget(0.3))
    inner = type(masks)({f"inner.{name}": mask for name, mask in masks.items()})
    reconstruct(named, Both().eval(), masks, Calibration(tuple(NAMED)))
    reconstruct(joined, Joined(Both()).eval(), inner, Calibration(JOINED))
    for name, parameter in named.named_parameters():
        assert torch.equal(parameter, joined.get_parameter(f"inner.{name}"))


@pytest.mark.parametrize(
    "data",
    [
        LABELLED,
        [UserDict(batch) for batch in LABELLED],
        {"a": A, "b": B, "labels": Y},
        iter(LABELLED),
    ],
    ids=["batches", "user-dicts", "one dict", "iterator"],
)
def test_one_call_prunes_by_named_arguments(data: Any) -> None:
    model = Both()
    plan = prunable(model, include_first=True)
    pruned, result = prune(model, 0.5, criterion="taylor", data=data, plan=plan)
    assert result.masks.kept == round(0.5 * result.masks.total)
    assert "batchnorm" in result.recovery
    assert pruned.norm.num_batches_tracked > 0
    assert result.macs is not None
    assert result.macs.before > 0
    same, _ = prune(model, 0.5, criterion="taylor", data=LABELLED, plan=plan)
    for name, parameter in pruned.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))


def test_texts_padded_to_lengths_of_their_own() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, input_ids: Tensor) -> Mapping[str, Tensor]:
            logits = self.out(self.words(input_ids))
            return {"loss": logits.square().mean()}

    batches = [{"input_ids": torch.randint(20, (20, length))} for length in (5, 9)]
    for criterion in ("wanda", "obs"):
        model = Words()
        plan = prunable(model, exclude=["words.weight"])
        _, result = prune(model, 0.5, criterion=criterion, data=batches, plan=plan)
        assert result.masks.kept == 80
    with pytest.raises(UsageError, match=r"batch 1 .* float32 \[20, 9\], but the first is"):
        Calibration((torch.zeros(20, 5), torch.zeros(20, 9)))


def test_the_whole_way_with_named_arguments_is_that_of_one_tensor() -> None:
    """Train, learn gates, prune, fine-tune and measure: the same weights as with one tensor."""

    def own(outputs: Any, _: None) -> Tensor:
        loss: Tensor = outputs.loss
        return loss

    recipe = secateur.Recipe(epochs=2, rate=0.05, precision="fp32")
    ways: list[tuple[nn.Module, secateur.LoaderData, Any]] = [
        (Both(), secateur.LoaderData(LABELLED), own),
        (
            Joined(Both()),
            secateur.LoaderData(list(zip(JOINED, torch.split(Y, 32), strict=True))),
            F.cross_entropy,
        ),
    ]
    ended = []
    for model, data, loss in ways:
        secateur.train(model, data, recipe, loss, seed=0)
        secateur.learn_gates(model, prunable(model).names, data, recipe, loss, seed=1)
        pruned, result = prune(model, 0.3, data=data.calibration(96, 32, torch.Generator()))
        secateur.finetune(pruned, result.masks, data, loss, seed=2)
        ended.append(list(pruned.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*ended, strict=True))
    held_out = [((A, B), Y)]
    logits = Logits()
    right = evaluate(logits, held_out, percent_correct)
    assert right == evaluate(Joined(logits), [(X, Y)], percent_correct)


def test_inputs_of_a_kind_of_their_own_are_one_argument() -> None:
    """A packed sequence is a named tuple of tensors, and yet no four arguments."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(4, 8), nn.Linear(8, 3)

        def forward(self, words: nn.utils.rnn.PackedSequence) -> Tensor:
            scores: Tensor = self.out(self.rnn(words)[1][0])
            return scores

    texts = [torch.randn(length, 4) for length in (3, 5, 2)]
    packed = nn.utils.rnn.pack_sequence(texts, enforce_sorted=False)
    data, model = secateur.LoaderData([(packed, Y[:3])]), Tagger()
    before = model.out.bias.detach().clone()
    recipe = secateur.Recipe(1, precision="fp32", schedule="cosine", warmup=0)
    secateur.train(model, data, recipe, F.cross_entropy, seed=0)
    assert not torch.equal(before, model.out.bias)
    with pytest.raises(UsageError, match="inputs are a PackedSequence; here they must be"):
        evaluate(model, [(packed, Y[:3])], percent_correct)


def test_distillation_of_named_arguments() -> None:
    data = secateur.LoaderData([(batch, Y[:32]) for batch in NAMED])
    student, teacher = Logits(), Logits()
    with torch.no_grad():
        teacher.head.bias.add_(1.0)
    taught, loss = distilled(data, F.cross_entropy, teacher, SoftTargets(), 1.0, autocast=False)
    before = student.head.bias.detach().clone()
    secateur.train(student, taught, secateur.Recipe(1, precision="fp32"), loss, seed=0)
    assert not torch.equal(before, student.head.bias)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([{"a": A, "b": B[:40]}], r"different numbers of samples: \{'a': 96, 'b': 40\}"),
        ([NAMED[0], {"a": A, "c": B}], "batch 1 .* but the first is a: float32"),
        ([NAMED[0], {"a": A, "b": B / 0}], "batch 1 .* not finite"),
        ([{}], "batch 0 .* no tuple or mapping of such tensors"),
        ([{"a": None, "b": 3}], "batch 0 .* no tuple or mapping of such tensors"),
        ([{"a": A, "b": B.numpy()}], "batch 0 .* no tuple or mapping of such tensors"),
    ],
)
def test_unusable_arguments_are_named(batches: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration(tuple(batches))


def test_a_model_that_gives_no_loss_is_told() -> None:
    with pytest.raises(UsageError, match=r"the model gives none with its outputs.*put its labels"):
        prune(Both(), 0.5, criterion="obs", data=NAMED)
    with pytest.raises(UsageError, match="criterion 'obs' needs gradients; give it a target"):
        prune(Logits(), 0.5, criterion="obs", data=[((A, B),)])
    with pytest.raises(UsageError, match=r"does not take .*a: float32 \[N, 6\]"):
        prune(Both(), 0.5, criterion="wanda", data=[{"a": A}])
    with pytest.raises(UsageError, match=r"a batch of the data is \(dict\)"):
        prune(Both(), 0.5, criterion="wanda", data=[{"a": A, "b": B.numpy()}])
