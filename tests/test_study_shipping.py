"""Networks of a study, compiled and measured."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bench_cases import result
from secateur.bench import environments
from secateur.compiler import pipeline
from secateur.errors import CompileError, StudyError, UsageError
from secateur.study import artifacts, matching, shipping
from secateur.study.hashed import digest
from secateur.study.matched import Matched
from secateur.study.reading import CorruptFile
from secateur.study.results import Results, rebuild
from secateur.study.study import Study
from secateur.study.task import Task
from secateur.terminal.measuring import measured
from study_runs import copy_study, record
from test_cli import SHORT, run
from test_study_as_fast import found

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.usefixtures("undrawn")
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")

PLAN: dict[str, Any] = {
    "keep": (0.8, 0.5, 0.1),
    "criteria": ("gate", "magnitude"),
    "seeds": 1,
    "epochs": 2,
    "gate_epochs": 1,
    "smaller": 0,
    "calibration": 128,
    "device": "cpu",
}


def quickly(patch: Patch) -> None:
    """Measure with few rounds, and beside one peer."""
    patch.setattr(shipping, "ROUNDS", 2)
    patch.setattr(shipping, "SECONDS", 0.005)
    patch.setattr(artifacts, "CALIBRATION", 64)
    patch.setattr(environments, "here", lambda peer: peer.name == "onnxruntime")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: Patch) -> None:
    quickly(monkeypatch)


@pytest.fixture(scope="module")
def ran(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose networks are not measured."""
    study = Study(digits, out=tmp_path_factory.mktemp("study"), **PLAN)
    study.run()
    return study


@pytest.fixture(scope="module")
def shipped(ran: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Results]:
    """The same study with its networks measured, at a price."""
    study = Study(ran.task, out=tmp_path_factory.mktemp("shipped"), **PLAN)
    copy_study(ran.directory, study.directory)
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        return study, study.ship(price=0.36)


@pytest.fixture
def fresh(ran: Study, tmp_path: Path) -> Study:
    """A copy of the study to measure, or to spoil."""
    study = Study(ran.task, out=tmp_path / "copy", **PLAN)
    copy_study(ran.directory, study.directory)
    return study


def accuracy(model: torch.nn.Module, task: Task) -> float:
    """Return the test accuracy in torch, in per cent."""
    right = []
    for inputs, targets in task.data(torch.device("cpu")).evaluation("test"):
        with torch.inference_mode():
            right.append(model(inputs).argmax(-1) == targets)
    return 100 * float(torch.cat(right).double().mean())


def examples(task: Task) -> int:
    return sum(len(y) for _, y in task.data(torch.device("cpu")).evaluation("test"))


@needs_cc
def test_every_level_of_the_claim_and_the_uncut_network_are_measured(
    shipped: tuple[Study, Results],
) -> None:
    study, results = shipped
    found = results.summary.shipped
    ours = {each.keep: each for each in found if each.engine == "secateur"}
    assert list(ours) == [1.0, *PLAN["keep"]]
    assert [each.criterion for each in ours.values()] == ["uncut", "gate", "gate", "gate"]
    (peer,) = (each for each in found if each.engine != "secateur")
    assert (peer.engine, peer.keep, peer.criterion) == ("onnxruntime", 1.0, "uncut")
    assert all(set(each.latency_ms) == set(shipping.BATCHES) for each in found)
    assert ours[0.1].bytes < ours[1.0].bytes
    assert not any(each.certified for each in found)  # one seed certifies nothing
    assert study.shipped


@needs_cc
def test_an_engine_is_as_right_as_the_network_in_torch(shipped: tuple[Study, Results]) -> None:
    study, results = shipped
    few = 100 * 3 / examples(study.task)
    for each in results.summary.shipped:
        if each.keep < 1:
            network = study.network(each.keep)
            assert abs(each.accuracy - accuracy(network, study.task)) <= few
    uncut = {each.engine: each.accuracy for each in results.summary.shipped if each.keep == 1}
    assert abs(uncut["secateur"] - uncut["onnxruntime"]) <= few
    # the uncut one is what the deepest level is compared with
    record = json.loads(
        (study.directory / "records" / "seed-0_uncut_keep-0.1_ladder.json").read_text()
    )
    assert abs(uncut["secateur"] - record["metrics"]["test"]) <= few


@needs_cc
def test_a_price_gives_what_a_million_examples_cost(shipped: tuple[Study, Results]) -> None:
    for each in shipped[1].summary.shipped:
        assert each.cost_per_million is not None
        batch = max(each.latency_ms)
        hours = each.latency_ms[batch] / 1000 / batch * 1e6 / 3600
        # that is by the mean, and the latency a median: on a busy machine they differ
        assert hours / 20 < each.cost_per_million / 0.36 < 20 * hours


@needs_cc
def test_notes_name_the_peers_that_are_missing(shipped: tuple[Study, Results]) -> None:
    _, results = shipped
    (note,) = (text for text in results.summary.shipping if "not installed" in text)
    assert note == ("not installed, so not measured: onnxruntime-int8, openvino, openvino-int8")
    assert "not installed, so not measured" in results.files.html.read_text()


def test_a_busy_machine_is_told_with_what_helps() -> None:
    (note,) = shipping._said(result(others=0.4))
    assert "40 % of the cores" in note
    assert "the study's command with --measure repeats it" in note
    assert not shipping._said(result(others=0.01))


@needs_cc
def test_what_was_measured_is_read_back_and_reported(shipped: tuple[Study, Results]) -> None:
    study, results = shipped
    content = json.loads((study.directory / "shipped.json").read_text())
    assert content["spec"] == study.spec.hash
    again = rebuild(study.directory)
    assert again.summary.shipped == results.summary.shipped
    assert again.summary.shipping == results.summary.shipping
    document = json.loads(json.dumps(again.document(), allow_nan=False))
    assert len(document["shipped"]) == len(results.summary.shipped)


def damaged(content: dict[str, Any]) -> str:
    content["measured"][0]["accuracy"] = 100.0
    return json.dumps(content)


def of_another_spec(content: dict[str, Any]) -> str:
    del content["sha256"]
    content["spec"] = "0" * 64
    return json.dumps({**content, "sha256": digest(content)})


@needs_cc
@pytest.mark.parametrize(
    "spoil",
    [
        damaged,
        of_another_spec,
        lambda content: json.dumps(content)[:-40],
        lambda content: "[]",
        lambda content: "",
    ],
    ids=["changed", "another spec", "cut off", "a list", "empty"],
)
def test_a_damaged_file_is_left_out_with_a_warning(
    spoil: Callable[[dict[str, Any]], str],
    shipped: tuple[Study, Results],
    tmp_path: Path,
) -> None:
    copy_study(shipped[0].directory, tmp_path)
    path = tmp_path / "shipped.json"
    path.write_text(spoil(json.loads(path.read_text())))
    with pytest.warns(CorruptFile, match=r"shipped\.json is left out"):
        results = rebuild(tmp_path)
    assert not results.summary.shipped
    assert results.summary.rows
    with pytest.warns(CorruptFile):
        assert not Study(shipped[0].task, out=tmp_path, **PLAN).shipped


def test_without_a_compiler_there_is_a_note(fresh: Study, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    results = fresh.ship()
    assert not results.summary.shipped
    (note,) = results.summary.shipping
    assert "keep ratio 1 is not compiled" in note
    assert "no-such-compiler" in note
    assert not fresh.shipped  # so it is tried again, when there is one


@needs_cc
def test_a_level_that_cannot_be_compiled_is_left_out(fresh: Study, monkeypatch: Patch) -> None:
    compiled = pipeline.compile_network

    def fails(source: bytes, *, name: str) -> pipeline.Compiled:
        if name == "keep 0.5":
            raise CompileError("an operator is missing")
        return compiled(source, name=name)

    monkeypatch.setattr(pipeline, "compile_network", fails)
    results = fresh.ship()
    ours = [each.keep for each in results.summary.shipped if each.engine == "secateur"]
    assert ours == [1.0, 0.8, 0.1]
    assert "keep ratio 0.5 is not compiled: an operator is missing" in results.summary.shipping


def test_a_study_that_was_not_run_has_nothing_to_measure(digits: Task, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study"):
        Study(digits, out=tmp_path / "none", **PLAN).ship()


class Changed:
    """Data of a task whose test inputs are made into something else."""

    def __init__(self, data: Any, change: Callable[[Any, int], Any]) -> None:
        self._data, self._change = data, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def evaluation(self, split: str, batch_size: int = 250) -> Iterator[Any]:
        for number, (inputs, targets) in enumerate(self._data.evaluation(split, batch_size)):
            yield self._change(inputs, number), targets


class Constant(torch.nn.Module):
    """A network that takes anything."""

    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        return torch.zeros(1, 10)


UNFIT: list[tuple[Callable[[Any, int], Any], str]] = [
    (lambda x, number: {"x": x}, "these take a dict; run the study with --no-measure"),
    (
        lambda x, number: x[..., : 8 - number],
        r"examples of \[1, 8, 7\] and \[1, 8, 8\]; run the study with --no-measure",
    ),
]


def unfit(task: Task, change: Callable[[Any, int], Any]) -> Task:
    return replace(task, data=lambda device: Changed(task.data(device), change))


@pytest.mark.parametrize(("change", "message"), UNFIT, ids=["a dict", "shapes"])
def test_inputs_that_no_engine_takes_say_what_to_do(
    change: Callable[[Any, int], Any], message: str, digits: Task
) -> None:
    with pytest.raises(UsageError, match=message):
        shipping.ship({1.0: Constant}, unfit(digits, change), None)  # type: ignore[arg-type]


def test_unasked_a_study_that_cannot_be_measured_is_shown_all_the_same(
    fresh: Study, digits: Task
) -> None:
    change, message = UNFIT[0]
    fresh.task = unfit(digits, change)
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert measured(fresh, None, asked=False, console=console) is None
    assert "not measured: " in said.getvalue()
    assert message in said.getvalue()
    with pytest.raises(UsageError, match=message):
        measured(fresh, None, asked=True, console=console)


@needs_cc
def test_the_command_measures_once_and_again_when_it_is_asked(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    matches: list[object] = []

    def match(*_: object, **__: object) -> Matched:
        matches.append(_)
        return found()

    monkeypatch.setattr(matching, "match", match)
    command = ["study", *SHORT, "--keep", "0.5", "--smaller", "0.5", "--criteria", "magnitude"]
    command += ["--out", str(tmp_path)]
    written = tmp_path / "shipped.json"

    def asked(*more: str) -> tuple[str, str]:
        code, out, err = run([*command, *more], monkeypatch, capsys)
        assert code == 0, err
        return out, err

    asked("--no-measure")
    assert not written.exists()
    assert not matches
    _, err = asked()
    assert "note: not installed, so not measured" in err
    first = written.read_bytes()
    # the dense network that is as fast is found, trained and measured by the one command
    assert record(tmp_path, "seed-0_as-fast_keep-0.5_ladder")
    ours = [each["criterion"] for each in json.loads(first)["measured"]][:3]
    assert ours == ["uncut", "magnitude", "as-fast"]
    assert all(each["cost_per_million"] is None for each in json.loads(first)["measured"])
    asked()
    assert written.read_bytes() == first  # measured before
    asked("--measure")
    second = written.read_bytes()
    assert second != first
    out, err = asked("--price", "2", "--json")  # a price is of what is measured now
    (line,) = out.splitlines()
    document = json.loads(line)
    assert document["complete"]
    assert all(each["cost_per_million"] > 0 for each in document["shipped"])
    assert "epochs of training" in err
    assert written.read_bytes() != second
    assert len(matches) == 1
