"""Every architecture of the list goes through everything; what is not taken is refused by name."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark_modules import ROOT, benchmark
from secateur import prune
from secateur.errors import SecateurError

coverage = benchmark("coverage")
ARCHITECTURES, CHECKS, REFUSALS = coverage.ARCHITECTURES, coverage.CHECKS, coverage.REFUSALS

OPEN: set[tuple[str, str]] = set()
"""(architecture, check), ("refusal", name) and ("in place", name) that are not right yet, and
known. When one is, its test fails: take it out here, and write the table again."""


def marked(one: str, other: str) -> Any:
    known = pytest.mark.xfail(strict=True, reason="known: take it out of OPEN when it is right")
    return pytest.param(one, other, marks=[known] if (one, other) in OPEN else [])


@pytest.fixture
def around(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The architecture, with what it needs around it."""
    architecture = ARCHITECTURES[request.param]
    if reason := coverage.missing(architecture):
        pytest.skip(reason)
    with ExitStack() as stack:
        stack.enter_context(architecture.around())
        yield architecture


@pytest.mark.parametrize(
    ("around", "check"),
    [marked(name, check) for name in ARCHITECTURES for check in CHECKS],
    indirect=["around"],
)
def test_an_architecture_passes(around: Any, check: str, tmp_path: Path) -> None:
    wanted = "equal" if check == "ONNX" else "yes"
    if check == "ONNX" and around.refused:
        wanted = "refused"
    assert CHECKS[check](around, tmp_path) == wanted


@pytest.mark.parametrize(
    ("kind", "name"), [marked("refusal", name) for name in REFUSALS], ids=list(REFUSALS)
)
def test_what_is_not_taken_is_refused_by_name(kind: str, name: str) -> None:
    refusal = REFUSALS[name]
    with pytest.raises(refusal.error) as raised:
        refusal.attempt()
    assert re.search(refusal.words, str(raised.value), re.DOTALL), str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [marked("in place", name) for name in ("half quantised", "meta in part", "not finite")],
)
def test_what_is_refused_has_not_changed(kind: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = REFUSALS[name].make()
    whole = {n: p for n, p in model.named_parameters() if not p.is_meta}
    before = {n: p.detach().clone() for n, p in whole.items()}
    with pytest.raises(SecateurError):
        prune(model, 0.1, in_place=True)
    assert all(torch.equal(before[n].nan_to_num(), p.nan_to_num()) for n, p in whole.items())


def test_a_check_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ARCHITECTURES["plain"]
    with monkeypatch.context() as patch:
        patch.setattr("secateur.Masks.hold", lambda masks, model: None)
        with pytest.raises(AssertionError, match="grown back"):
            coverage.held(plain, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(coverage, "load", lambda path, model: model)
        with pytest.raises(AssertionError):
            coverage.files(plain, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("secateur.Gates.remove", lambda gates: None)
        with pytest.raises(AssertionError):
            coverage.gates(plain, tmp_path)


def test_the_list_is_long_enough_and_small_enough() -> None:
    assert len(ARCHITECTURES) >= 28
    for architecture in ARCHITECTURES.values():
        if not coverage.missing(architecture):
            with architecture.around():
                model, _ = coverage.fresh(architecture)
            assert sum(parameter.numel() for parameter in model.parameters()) < 100_000


def test_a_missing_package_is_a_reason() -> None:
    plain = replace(ARCHITECTURES["plain"], needs="no_such_package")
    assert "no_such_package is not installed" in coverage.missing(plain)
    row = coverage.tried("plain", plain)
    assert row == ["–", "–", *["not tried"] * len(CHECKS)]


def rows(text: str) -> dict[str, list[str]]:
    """Return the first cell of every row of a document's tables → the others."""
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in cells}


def test_the_table_has_a_row_for_every_architecture() -> None:
    written = rows((ROOT / "docs" / "coverage.md").read_text(encoding="utf-8"))
    labels = list(CHECKS)
    for name, architecture in ARCHITECTURES.items():
        assert name in written, f"{name} has no row: run python benchmarks/coverage.py"
        what, _, _, *cells = written[name]
        assert what == architecture.what
        assert len(cells) == len(labels)
        for label, cell in zip(labels, cells, strict=True):
            assert ("FAILED" in cell) == ((name, label) in OPEN), f"{name}, {label}: {cell}"
    assert len({refusal.what for refusal in REFUSALS.values()}) == len(REFUSALS)
    for name, refusal in REFUSALS.items():
        assert ("NOT REFUSED" in written[refusal.what][0]) == (("refusal", name) in OPEN)


def test_the_command_writes_the_same_table_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: ARCHITECTURES[name] for name in ("plain", "bilinear")}
    monkeypatch.setattr(coverage, "ARCHITECTURES", few)
    monkeypatch.setattr(coverage, "REFUSALS", {"frozen": REFUSALS["frozen"]})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    texts = []
    for name in ("one.md", "two.md"):
        monkeypatch.setattr(sys, "argv", ["coverage.py", "--output", str(tmp_path / name)])
        assert coverage.main() == 0
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert [line for line in texts[0].splitlines() if not line.startswith("Date: ")] == [
        line for line in texts[1].splitlines() if not line.startswith("Date: ")
    ]
    assert rows(texts[0])["plain"][1:] == ["1,312", "1,036", *("yes",) * 4, "equal", "yes", "yes"]
    assert rows(texts[0])["bilinear"][7].startswith("refused (")
