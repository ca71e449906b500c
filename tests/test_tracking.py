"""A study followed elsewhere: each record is logged once, and no tracker can hurt the study."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from secateur.errors import UsageError
from secateur.study.plan import Event, Stage, Trial
from secateur.study.reading import LEDGER
from secateur.study.results import Results
from secateur.study.study import Study
from secateur.study.task import Task
from secateur.study.tracking import Figure, Followed, observer
from secateur.study.tracking.figures import of_record, of_summary, parameters
from secateur.study.tracking.ledger import Ledger
from secateur.study.tracking.observer import Tracking, TrackingWarning
from test_cli import QUICK, run

PLAN: dict[str, Any] = {
    "keep": (0.5,), "seeds": 2, "epochs": 1, "gate_epochs": 1, "calibration": 64,
    "criteria": ("magnitude",), "device": "cpu",
}  # fmt: skip


@dataclass
class Kept:
    """A tracker that keeps what it is given, and fails when it is told to."""

    run: str = "first"
    known: list[str | None] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    figures_: list[Figure] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    fails: str = ""

    def connect(self, name: str, study: Followed, run: str | None) -> Kept:
        self._may_fail("connect")
        self.known.append(run)
        return self

    def parameters(self, values: Mapping[str, str]) -> None:
        self._may_fail("parameters")
        self.told |= values

    def figures(self, figures: Iterable[Figure]) -> None:
        self._may_fail("figures")
        self.figures_ += figures

    def artifact(self, path: Path) -> None:
        self._may_fail("artifact")
        self.files.append(path.name)

    def close(self, *, done: bool) -> None:
        self._may_fail("close")
        self.closed.append(done)

    def _may_fail(self, what: str) -> None:
        if self.fails == what:
            raise RuntimeError(f"{what} failed\nat length")


@pytest.fixture(scope="module")
def finished(
    undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, list[Event]]:
    """A study that was run, and what its observer was told of items that are done."""
    study, events = Study(digits, out=tmp_path_factory.mktemp("study"), **PLAN), []
    study.run(lambda event: events.append(event) if event.record else None)
    Image.new("RGB", (4, 3)).save(study.directory / "curve.png")
    return study, events


@pytest.fixture
def again(finished: tuple[Study, list[Event]]) -> Study:
    """The same study, followed by nobody so far."""
    study, _ = finished
    (study.directory / LEDGER).unlink(missing_ok=True)
    return study


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    found = Kept()
    monkeypatch.setattr(observer, "refuse_unknown", lambda name: None)
    monkeypatch.setattr(observer, "connected", found.connect)
    return found


def followed(study: Study, *names: str) -> Results:
    with Tracking(study, names) as tracking:
        results = study.run(tracking)
        tracking.results(results)
    return results


def test_every_record_is_logged_once_and_the_levels_and_the_report(
    again: Study, kept: Kept
) -> None:
    results = followed(again, "kept")
    records = list((again.directory / "records").glob("*.json"))
    names = [name for name, _, _ in kept.figures_]
    assert len(names) == len(set(zip(names, (at for _, _, at in kept.figures_), strict=True)))
    losses = [name for name in names if name.endswith("/loss")]
    tests = [name for name in names if name.startswith("seed ") and name.endswith("/test")]
    assert len(losses) + len(tests) == len(records)  # of one epoch each
    row = results.summary.of("magnitude", "ladder")[0]
    assert ("levels/magnitude ladder/test", row.test.mean, 500) in kept.figures_
    assert ("levels/magnitude ladder/certified", 0.0, 500) in kept.figures_
    assert {"report.html", "results.csv", "curve.png"} <= set(kept.files)
    assert kept.told["options.epochs"] == "1"
    assert kept.closed == [True]

    count = len(kept.figures_), len(kept.files)
    followed(again, "kept")
    assert (len(kept.figures_), len(kept.files)) == count
    assert (kept.known, kept.closed) == ([None, "first"], [True, True])

    kept.run = "second"  # such as on another server
    followed(again, "kept")
    assert (len(kept.figures_), len(kept.files)) == (2 * count[0], 2 * count[1])


def test_a_study_that_was_killed_logs_what_is_left(
    again: Study, finished: tuple[Study, list[Event]], kept: Kept
) -> None:
    _, events = finished

    def killed() -> None:
        with Tracking(again, ["kept"]) as tracking:
            for event in events[:3]:
                tracking(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert kept.closed == [False]
    some = len(kept.figures_)
    path = again.directory / LEDGER
    path.write_bytes(path.read_bytes() + b'{"tracker": "kept", "logg')
    followed(again, "kept")
    seen = [(name, at) for name, _, at in kept.figures_ if name.startswith("seed ")]
    assert len(seen) == len(set(seen)) > some


@pytest.mark.parametrize("fails", ["connect", "parameters", "figures", "artifact", "close"])
def test_a_tracker_that_fails_is_told_of_once(again: Study, kept: Kept, fails: str) -> None:
    kept.fails = fails
    with pytest.warns(TrackingWarning) as caught:
        results = followed(again, "kept")
    assert not results.summary.missing
    (warning,) = caught
    assert f"kept cannot follow the study any more: {fails} failed; " in str(warning.message)


def test_a_tracker_that_hangs_is_left_behind(
    again: Study, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(observer, "PATIENCE", 0.01)
    monkeypatch.setattr(kept, "figures", lambda figures: released.wait(60))
    with pytest.warns(TrackingWarning, match=r"kept did not take all of the study within"):
        followed(again, "kept")
    released.set()


def test_a_tracker_that_there_is_not_or_that_is_not_installed(
    again: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UsageError, match="no tracker 'nobody'; choose one of mlflow, tensorboard"):
        Tracking(again, ["nobody"])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    arguments = ["study", *QUICK, "--track", "mlflow", "--out", str(tmp_path / "study")]
    code, _, err = run(arguments, monkeypatch, capsys)
    assert code == 2
    assert "pip install 'secateur[mlflow]'" in err
    assert not (tmp_path / "study").exists()


def test_figures_that_cannot_be_logged_are_left_out() -> None:
    log = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}, {"loss": 1.0}, {"epoch": 4}]
    assert of_record(Stage(0, "a[/b]|\n"), {"log": log}) == [("seed 0/a_/b___/loss", 0.5, 1)]
    record = {"metrics": {"validation": float("nan"), "test": 90}}
    assert of_record(Trial(3, "gate", 0.05, "ladder"), record) == [
        ("seed 3/gate ladder/test", 90.0, 50)
    ]
    given = {"a": {"b c\n": "x" * 1000, "d": [1, 2]}, "e": None}
    assert parameters(given) == {"a.b c_": "x" * 500, "a.d": "[1, 2]", "e": "null"}


def test_a_ledger_of_others_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = [b"\xff", b"[1]", b"{}", json.dumps({"tracker": "a", "run": 5}).encode()]
    (tmp_path / LEDGER).write_bytes(b"\n".join([*lines, b""]))
    ledger = Ledger(tmp_path)
    assert ledger.before("a") == (None, set())
    ledger.add("a", run="x")
    ledger.add("b", run="y")
    ledger.add("a", logged="\udcff")
    assert ledger.before("a") == ("x", set())  # half a character is no text of JSON
    ledger.add("a", logged="one")
    assert ledger.before("a") == ("x", {"one"})
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"tracker": "a", "log')  # a run was killed, or the disk was full
    ledger.add("a", logged="two")
    assert ledger.before("a") == ("x", {"one", "two"})


def test_tensorboard_has_curves_levels_and_the_report(again: Study) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing import event_accumulator

    for _ in range(2):  # the second one has nothing to add
        results = followed(again, "tensorboard")
    found = event_accumulator.EventAccumulator(str(again.directory / "tensorboard"))
    found.Reload()
    wanted = {name for name, _, _ in of_summary(results.summary)}
    for path in (again.directory / "records").glob("*.json"):
        record = json.loads(path.read_text())
        if "stage" in record:
            item: Stage | Trial = Stage(record["seed"], record["stage"], record["keep"])
        else:
            item = Trial(**record["trial"])
        for name, value, at in of_record(item, record):
            wanted.add(name)
            (event,) = [e for e in found.Scalars(name) if e.step == at]
            assert event.value == pytest.approx(value)
    assert set(found.Tags()["scalars"]) == wanted
    assert [len(found.Scalars(name)) for name in wanted] == [1] * len(wanted)
    assert found.Tags()["images"] == ["curve.png"]
    texts = {name: found.Tensors(name)[0] for name in found.Tags()["tensors"]}
    table = texts["results.csv/text_summary"].tensor_proto.string_val[0].decode()
    assert "magnitude" in table
    assert "options.epochs" in str(texts["parameters/text_summary"].tensor_proto)


@pytest.fixture(params=["folder", "server"])
def mlflow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The client of a store of MLflow's: a folder, or a server on this machine.

    The client that the tests install has no server; `pip install mlflow` brings one.
    """
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "folder":
            patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
            patch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
            yield tracking.MlflowClient()
            return
        if not find_spec("mlflow.server") or not find_spec("flask"):
            pytest.skip("mlflow's server is not installed")
        with served(tmp_path) as address:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            yield tracking.MlflowClient()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run MLflow's server on this machine; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"{address}/health") as answer:
                if answer.status == 200:
                    break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def test_mlflow_has_curves_levels_and_the_report(
    again: Study, mlflow: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    client = mlflow
    for _ in range(2):  # the second one has nothing to add
        results = followed(again, "mlflow")
    assert capfd.readouterr().out == ""
    (found,) = client.search_runs([client.get_experiment_by_name("secateur").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags["secateur.study"] == again.spec.hash
    assert found.data.params == parameters(again.spec.as_json())
    for name, value, at in of_summary(results.summary):
        history = client.get_metric_history(found.info.run_id, name)
        assert [m.value for m in history if m.step == at] == [pytest.approx(value)]
    curve = client.get_metric_history(found.info.run_id, "seed 1/magnitude ladder/test")
    assert [metric.step for metric in curve] == [500]
    artifacts = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert {"report.html", "results.csv", "curve.png"} <= artifacts
