"""Every public name refuses what makes no sense with one error that names argument and value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur
from secateur.errors import SecateurError, UsageError
from test_cli import run
from wrong_calls import CALLS as OTHER_CALLS
from wrong_calls import ELSEWHERE
from wrong_file_calls import FILE_CALLS
from wrong_values import ARRAY, LOSS, X, content, engine, gating, loader, net, pruned, study

CALLS = OTHER_CALLS | FILE_CALLS


def wrong() -> Iterator[Any]:
    for name, (_, _, arguments) in CALLS.items():
        for argument, values in arguments.items():
            for number, value in enumerate(values):
                shown = str(value).split("\n")[0][:20].replace("\0", "NUL")
                yield pytest.param(name, argument, value, id=f"{name}-{argument}-{number}-{shown}")


def named(message: str, argument: str, value: object) -> bool:
    """Whether a message names an argument, and its value or the kind of that."""
    kinds = [type(part).__name__ for part in parts(value)]
    said = [repr(part)[:20] for part in parts(value)] + [str(part)[:20] for part in parts(value)]
    words = {"model": "mod", "overrides": "override", "masks": "mask", "fixed": "fixed"}
    words |= {"input_shapes": "shape", "source": "", "criteria": "criteri", "data": "data"}
    words |= {"reference": "task", "target": "target", "device": "device", "gates": "gate"}
    words |= {"training": "training", "net": "net", "values": "values", "scores": ""}
    words |= {"out": "out", "path": "path", "inputs": "", "folder": "folder"}
    return words.get(argument, argument) in message and any(
        text.replace("\0", "\\x00") in message for text in (*kinds, *said) if text
    )


def parts(value: object) -> Iterator[object]:
    yield value
    if isinstance(value, dict):
        for each in (*value, *value.values(), *value.items()):
            yield from parts(each)
    elif isinstance(value, (tuple, list, set)):
        for each in value:
            yield from parts(each)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "argument", "value"), [*wrong()])
def test_it_is_refused_by_name(name: str, argument: str, value: Any, tmp_path: Path) -> None:
    call, right, _ = CALLS[name]
    given = {
        key: pruned()[1].masks if key == "masks" and v is None else v for key, v in right.items()
    }
    with pytest.raises(SecateurError) as refusal:
        call(**{**given, argument: value})
    assert named(str(refusal.value), argument, value), refusal.value
    assert not list(tmp_path.iterdir())


def test_every_public_name_is_tried() -> None:
    tried = {name.split(".")[0].split(" ")[0] for name in CALLS}
    assert set(secateur.__all__) - tried == ELSEWHERE


def test_a_study_takes_one_value_where_it_may_have_several() -> None:
    assert study(keep=0.1).spec == study(keep=(0.1,)).spec == study(keep=[0.1]).spec
    assert study(keep=(k for k in (0.5, 0.1))).spec == study(keep=(0.5, 0.1)).spec
    assert study(keep=np.array([0.5, 0.25])).spec.hash == study(keep=(0.5, 0.25)).spec.hash
    assert study(criteria="gate").spec == study(criteria=("gate",)).spec


def test_a_module_in_a_tasks_place_is_told_of_prune() -> None:
    with pytest.raises(UsageError, match=r"task is .*Linear.*secateur\.Task.*secateur\.prune"):
        secateur.Study(nn.Linear(2, 2))


def test_models_that_are_none_are_told_so() -> None:
    with pytest.raises(UsageError, match="Linear is a class"):
        secateur.compile(nn.Linear)
    with pytest.raises(UsageError, match="example"):
        secateur.compile(net())
    for path in ("a\0b", Path("a\0b")):
        with pytest.raises(UsageError, match="path"):
            secateur.compile(path)
    for state in ({"a": 3}, {"a": ARRAY}):
        with pytest.raises(UsageError, match=f"'a' is no tensor but {type(state['a']).__name__}"):
            secateur.save(state, "x")


@pytest.mark.parametrize("word", ["sparsity", "amount"])
def test_a_sparsity_is_told_as_what_is_kept(word: str) -> None:
    for call in (
        lambda: secateur.prune(net(), **{word: 0.9}),
        lambda: secateur.prune(net(), 0.5, **{word: 0.9}),
        lambda: secateur.Budget(**{word: 0.9}),
        lambda: secateur.Rung(**{word: 0.9}),
        lambda: study(**{word: 0.9}),
    ):
        with pytest.raises(UsageError, match=rf"'{word}'.*keep=0\.1$"):
            call()


@pytest.mark.parametrize(
    ("call", "given", "meant"),
    [
        (lambda **a: secateur.prune(net(), 0.5, **a), "patern", "pattern"),
        (lambda **a: secateur.prune(net(), 0.5, **a), "calibration_data", "data"),
        (lambda **a: secateur.prune(net(), 0.5, **a), "example_inputs", "example"),
        (lambda **a: secateur.Recipe(1, **a), "lr", "rate"),
        (lambda **a: secateur.Recipe(1, **a), "epoch", "epochs"),
        (lambda **a: secateur.compile(content(), **a), "input_shape", "input_shapes"),
        (lambda **a: secateur.compile(content(), **a), "value", "values"),
        (lambda **a: secateur.compile_network(content(), **a), "tuned", "tune"),
        (lambda **a: secateur.save(net(), "x", **a), "mask", "masks"),
        (lambda **a: secateur.export_onnx(net(), X, "x", **a), "tolerence", "tolerance"),
        (lambda **a: secateur.Metric("m", "%", LOSS, **a), "higher_better", "higher_is_better"),
        (gating, "fase", "phase"),
        (study, "seed", "seeds"),
        (lambda **a: secateur.classification("digits", "mlp", **a), "smoothing", "label_smoothing"),
    ],
)
def test_an_argument_that_is_none_is_told_what_it_may_mean(
    call: Callable[..., Any], given: str, meant: str
) -> None:
    with pytest.raises(UsageError, match=rf"'{given}'.*'?{meant}"):
        call(**{given: 3})


def test_a_call_that_lacks_an_argument_names_it() -> None:
    with pytest.raises(UsageError, match="'metric'"):
        secateur.Task("t", net, loader, LOSS)
    with pytest.raises(UsageError, match="'path'"):
        secateur.save(net())


def test_signatures_and_values_are_as_they_were() -> None:
    assert list(inspect.signature(secateur.Recipe).parameters)[:3] == [
        "epochs",
        "batch_size",
        "rate",
    ]
    assert secateur.Recipe(2) == replace(secateur.Recipe(1), epochs=2)
    assert secateur.prune.__name__ == "prune"
    assert "keep ratio" in secateur.prune.__doc__


def weights(tmp_path: Path) -> dict[str, Path]:
    """Files that are no network."""
    save_file(net().state_dict(), tmp_path / "m.safetensors")
    secateur.save(net(), tmp_path / "ours.safetensors")
    torch.save(net().state_dict(), tmp_path / "m.pt")
    torch.save(net().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "m.npz", a=ARRAY)
    np.save(tmp_path / "m.npy", ARRAY)
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "m.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", ["compile", "bench"])
def test_files_that_are_no_network_are_named(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, path in (*weights(tmp_path).items(), ("none.onnx", tmp_path / "none.onnx")):
        before = sorted(tmp_path.iterdir())
        code, out, err = run([command, str(path)], monkeypatch, capsys)
        assert code in (1, 2), name
        assert name in err
        assert "Traceback" not in err
        assert not out
        assert sorted(tmp_path.iterdir()) == before
        if path.suffix in (".safetensors", ".pt", ".npz"):
            assert code == 2
            assert "weights" in err
        with pytest.raises(SecateurError, match=name):
            secateur.compile(path)


def test_an_engine_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secateur.compile(content(), out=tmp_path / "net.so")
    code, _, err = run(["compile", str(tmp_path / "net.so")], monkeypatch, capsys)
    assert code == 2
    assert "compiled already" in err


def test_an_engine_takes_no_arguments_by_name() -> None:
    with pytest.raises(UsageError, match="'input'"):
        engine()(input=ARRAY)
    assert (engine()({"input": ARRAY}) == engine()(ARRAY)).all()
