"""Values of a wrong type get the same clear error as wrong values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import secateur
from secateur.distillation import SoftTargets
from secateur.errors import UsageError
from secateur.study.options import Options
from secateur.study.spec import Spec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: secateur.Recipe(epochs="a"), "epochs is 'a', but must be at least 1, a whole"),
        (lambda: secateur.Recipe(epochs=1.5), "epochs is 1.5, but must be at least 1, a whole"),
        (lambda: secateur.Recipe(1, rate=None), "rate is None, but must be positive"),
        (lambda: secateur.Recipe(1, schedule=[]), r"schedule is \[\], but must be triangular"),
        (lambda: secateur.GatePhase(gate_rate="3"), "gate_rate is '3', but must be positive"),
        (lambda: secateur.Rung(0.1, share="all"), "share is 'all', but must be in"),
        (lambda: SoftTargets("warm"), "temperature is 'warm', but must be positive"),
        (lambda: Spec("t", {}, {}, Options(seeds="3")), "seeds is '3', but must be at least 1"),
        (lambda: secateur.Engine.load(None), "path is None"),
        (lambda: secateur.load(None, nn.Linear(2, 2)), "path is None"),
        (lambda: secateur.read(3), "path is 3"),
        (lambda: secateur.load_masks(None), "path is None"),
        (lambda: secateur.save(nn.Linear(2, 2), None), "path is None"),
        (lambda: secateur.Masks.load(None), "path is None"),
    ],
)
def test_it_is_named_with_what_it_must_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_threads_that_are_no_number(tmp_path: Path) -> None:
    for threads in ("a", 0, 1.5):
        with pytest.raises(UsageError, match="an engine has 1 to 1024 threads, not"):
            secateur.Engine.load(tmp_path / "x.secateur", threads)
