"""Models of other libraries go through everything: eight here, all in `make test-long`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark_modules import ROOT, benchmark
from secateur.errors import SecateurError

models = benchmark("models")

EIGHT = (
    "plain torch: mvit-v2",
    "plain torch: fasternet, assigned",
    "plain torch: pyramid (retinanet)",
    "plain torch: sorted boxes",
    "transformers: distilbert",
    "transformers: gpt-2",
    "transformers: t5",
    "transformers: swin",
)


def goes_through(name: str, folder: Path) -> None:
    if models.missing(name):
        pytest.skip("its package is not installed")
    model = models.made(models.MODELS[name], folder)
    for label, way in models.WAYS.items():
        if (name, label) in models.REFUSED:
            with pytest.raises(SecateurError, match=models.REFUSED[name, label]):
                way(model)
            continue
        try:
            way(model)
        except SecateurError as error:
            if label != "channels" or not str(error).startswith(models.STAYS):
                raise


@pytest.mark.parametrize("name", EIGHT)
@pytest.mark.filterwarnings("ignore")  # of the libraries, about their own ways
def test_a_model_goes_through_everything(name: str, tmp_path: Path) -> None:
    goes_through(name, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_experts_of_transformers_are_exported(tmp_path: Path) -> None:
    name = "transformers: qwen3-moe"
    if models.missing(name):
        pytest.skip("its package is not installed")
    model = models.made(models.MODELS[name], tmp_path)
    models.WAYS["ONNX"](model)
    assert model.module.config._experts_implementation != "batched_mm"  # as it was


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in EIGHT])
@pytest.mark.filterwarnings("ignore")
def test_every_model_goes_through_everything(name: str, tmp_path: Path) -> None:
    goes_through(name, tmp_path)


def test_what_is_refused_is_of_the_list() -> None:
    for name, way in models.REFUSED:
        assert name in models.MODELS
        assert way in models.WAYS


def record(**ways: list[str]) -> dict[str, Any]:
    return {"parameters": 1234, "ways": {way: ["yes", ""] for way in models.WAYS} | ways}


def test_the_page_counts_what_works_what_is_refused_and_what_fails() -> None:
    text = models.page(
        {
            "a": record(channels=["yes", "2 of 3 groups; x.weight: a size | in its code"]),
            "b": record(ONNX=["refused", "torch cannot export it\nbecause"]),
            "c": record(weights=["failed", "AssertionError: 3 of 4"]),
            "e": record(channels=["refused", f"{models.STAYS} (x.weight: a norm in y)"]),
            "d": {"parameters": 0, "ways": {"weights": ["failed", "nothing within 600 s"]}},
        }
    )
    assert "5 models were tried, each in seven ways. 2 (40%) work in\nevery way" in text
    assert "1 are refused in some way, with a reason, and\n2 fail. 1 of those that work" in text
    assert "| e | 1,234 | yes | yes | yes | stays |" in text
    assert "| e | channels | x.weight: a norm in y |" in text
    assert "| a | 1,234 | yes | yes | yes | 2 of 3 groups |" in text
    assert "| a | channels | x.weight: a size \\| in its code |" in text
    assert "| b | ONNX | torch cannot export it because |" in text
    assert "| c | weights | AssertionError: 3 of 4 |" in text
    assert "| d | 0 | **FAILED** | – |" in text


def test_the_page_has_every_model_that_was_tried() -> None:
    written = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    names = {line.split(" | ")[0].strip("| ") for line in written.splitlines() if ": " in line}
    tried = [name for name in models.MODELS if name in names]
    assert len(tried) >= 75
    assert "FAILED" not in written
    others = {name for name in names if name.partition(": ")[0] in ("plain torch", "transformers")}
    assert others <= set(models.MODELS), "run python benchmarks/models.py FOLDER"


def test_a_model_that_dies_or_cannot_be_made_is_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies() -> Any:
        raise SystemExit(7)

    entry = models.MODELS["plain torch: resnet"]
    monkeypatch.setitem(models.MODELS, "plain torch: dies", type(entry)("", dies, entry.inputs))
    models.in_a_process("plain torch: dies", tmp_path)
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert found["ways"] == {"weights": ["failed", "the process ended with 7"]}
