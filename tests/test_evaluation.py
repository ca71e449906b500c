"""What one pass of a network over a data set says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate, evaluate_examples
from secateur.study.metrics import percent_correct, squared_error

SAME = nn.Identity()


def batches(outputs, targets, size):
    return list(zip(outputs.split(size), targets.split(size), strict=True))


def reference_calibration_error(outputs, targets):
    """By numpy, bin by bin, as the paper says it: |accuracy - confidence|, weighted by size."""
    z = outputs.double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == targets.numpy()
    error = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * error


@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 25), st.integers(0, 2**31))
def test_against_a_reference(count, classes, size, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(count, classes, generator=generator)
    targets = torch.randint(classes, (count,), generator=generator)
    found = evaluate_examples(SAME, batches(outputs, targets, size), percent_correct)
    right = (outputs.argmax(1) == targets).numpy()
    assert found.scores.dtype == np.float32
    assert found.scores.tolist() == (100.0 * right).tolist()
    assert found.mean == pytest.approx(100 * right.mean(), abs=1e-12)
    assert found.mean == evaluate(SAME, batches(outputs, targets, size), percent_correct)
    assert len(found.by_class) == classes
    for label, mean in enumerate(found.by_class):
        of_it = right[targets.numpy() == label]
        assert mean == (pytest.approx(100 * of_it.mean()) if len(of_it) else None)
    expected = reference_calibration_error(outputs, targets)
    assert found.calibration_error == pytest.approx(expected, abs=1e-9)


def test_calibration_by_hand():
    # Always 0.8 sure, and right in one of two: the error is 30 per cent.
    outputs = torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log()
    targets = torch.tensor([0, 1])
    found = evaluate_examples(SAME, [(outputs, targets)], percent_correct)
    assert found.calibration_error == pytest.approx(30.0, abs=1e-5)
    assert found.by_class == (100.0, 0.0)
    sure = evaluate_examples(SAME, [(1e4 * outputs, targets[:1].expand(2))], percent_correct)
    assert sure.calibration_error == 0.0


def test_bins_do_not_cancel_each_other():
    # 0.6 sure and right, 0.9 sure and wrong: 40 and 90, not the 25 that their means would give.
    outputs = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
    found = evaluate_examples(SAME, [(outputs, torch.tensor([0, 1]))], percent_correct)
    assert found.calibration_error == pytest.approx(65.0, abs=1e-4)


def test_scores_are_by_class_for_any_metric():
    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    outputs, targets = torch.randn(40, 3), torch.arange(40) % 2
    found = evaluate_examples(SAME, batches(outputs, targets, 7), loss)
    each = loss(outputs, targets)
    assert found.by_class == (
        pytest.approx(each[::2].mean().item(), rel=1e-6),
        pytest.approx(each[1::2].mean().item(), rel=1e-6),
        None,
    )


@pytest.mark.parametrize(
    ("outputs", "targets", "metric"),
    [
        (torch.randn(6, 2), torch.randn(6, 2), squared_error),
        (torch.randn(6, 5, 3), torch.zeros(6, 5, dtype=torch.int64), percent_correct),
        (torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, -100]), percent_correct),
        (torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 3]), percent_correct),
        (torch.randn(6, 3), torch.zeros(6, dtype=torch.int32), percent_correct),
        (torch.zeros(6, 3, dtype=torch.int64), torch.zeros(6, dtype=torch.int64), percent_correct),
    ],
    ids=["regression", "by token", "ignored", "out of range", "int32", "outputs are int64"],
)
def test_what_does_not_classify_has_scores_alone(outputs, targets, metric):
    found = evaluate_examples(SAME, batches(outputs, targets, 4), metric)
    assert (found.by_class, found.calibration_error) == (None, None)
    assert found.scores.shape == (6,)
    assert found.mean == pytest.approx(found.scores.mean(dtype=np.float64), rel=1e-6)


def test_batches_of_other_classes_do_not_classify():
    made = [(torch.randn(4, n), torch.zeros(4, dtype=torch.int64)) for n in (3, 2)]
    assert evaluate_examples(SAME, made, percent_correct).by_class is None


def test_outputs_that_are_not_finite_have_no_calibration():
    outputs = torch.tensor([[0.0, torch.nan], [1.0, 0.0]])
    found = evaluate_examples(SAME, [(outputs, torch.tensor([0, 0]))], percent_correct)
    assert found.calibration_error is None
    assert len(found.by_class) == 2


def test_no_data_and_wrong_metrics_are_refused():
    with pytest.raises(UsageError, match="no data"):
        evaluate_examples(SAME, [], percent_correct)
    one = [(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))]
    with pytest.raises(UsageError, match="one value per example"):
        evaluate_examples(SAME, one, lambda outputs, targets: outputs)
