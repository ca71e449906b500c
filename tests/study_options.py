"""Options of studies, drawn for properties that hold of all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from secateur.errors import UsageError
from secateur.pruning.criteria import CRITERIA
from secateur.study.options import Options

RATIOS = st.one_of(
    st.sampled_from((1.0, 0.9, 0.8, 0.6, 0.5, 0.25, 0.2, 0.1, 0.05, 0.02)),
    st.floats(0.001, 1.0),
)


@st.composite
def options(draw: st.DrawFn, **fixed: Any) -> Options:
    """Draw options that a study may have; those that are given stay as they are."""
    names = st.lists(st.sampled_from(sorted(CRITERIA)), min_size=1, max_size=4, unique=True)
    keep = draw(st.lists(RATIOS, min_size=1, max_size=6, unique=True))
    gates = fixed.get("gates") or draw(st.sampled_from(("ladder", "ladder", "trunk", "frozen")))
    ladder = gates == "ladder"
    given: dict[str, Any] = {
        "keep": tuple(sorted(keep, reverse=True)),
        "criteria": tuple(draw(names)),
        "gates": gates,
        "seeds": draw(st.integers(1, 3)),
        "first_seed": draw(st.integers(0, 5)),
        "epochs": draw(st.integers(1, 20)),
        "gate_epochs": draw(st.floats(0.01, 30.0)),
        "ladder_from": draw(st.sampled_from((1.0, 0.6, 0.3))) if ladder else 0.6,
        "dense_steps": 0.2 if ladder else draw(st.sampled_from((0.0, 0.2, 0.5))),
        "reconstruct": draw(st.sampled_from((0, 64))),
        "unrepaired": draw(st.booleans()),
        **fixed,
    }
    try:
        chosen = Options(**given)
        rungs = st.sampled_from((0.0, *chosen.rungs))
        return Options(**{"smaller": draw(rungs), **given})
    except UsageError:  # gates have no rung to learn on
        reject()
