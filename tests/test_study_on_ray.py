"""A study on a Ray cluster, without one: what is decided here, on nodes that are only names.

`test_ray_cluster` has the same on a real one.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fake_ray import FakeRay, NodeDiedError, WorkerCrashedError, installed
from secateur import machine
from secateur.errors import StudyError, UsageError
from secateur.study import matching
from secateur.study.executors import cluster as clusters
from secateur.study.executors import node as nodes
from secateur.study.executors import ray as rays
from secateur.study.executors.cluster import Cluster, slots_of
from secateur.study.executors.messages import unpacked
from secateur.study.executors.ray import on_ray
from secateur.study.loading import load_task
from secateur.study.plan import Event, Stage, items
from secateur.study.reading import CorruptFile
from secateur.study.study import Study
from secateur.study.task import Task, classification
from secateur.terminal.progress import StudyProgress
from secateur.terminal.scaling import described, place
from study_runs import copy_study, numbers
from test_cli import run
from test_study_as_fast import found

Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.usefixtures("undrawn", "_own_folders")

PLAN: dict[str, Any] = {
    "keep": (0.5, 0.1), "criteria": ("gate", "magnitude"), "seeds": 2, "epochs": 1,
    "gate_epochs": 1.0, "calibration": 128, "device": "cpu", "batch_size": 256,
}  # fmt: skip


@pytest.fixture
def _own_folders(tmp_path: Path, monkeypatch: Patch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nodes"))
    (tmp_path / "nodes").mkdir()
    monkeypatch.setattr(clusters, "WAIT", 0.0)
    monkeypatch.setattr(clusters, "_LOOK", 0.0)
    monkeypatch.setattr("secateur.study.executors.ray.WAIT", 0.0)
    monkeypatch.setattr("secateur.study.executors.ray._REST", 0.0)
    yield
    nodes._turns.clear()


@pytest.fixture(scope="module")
def task() -> Task:
    return classification("digits", "mlp", progress=False)


@pytest.fixture(scope="module")
def finished(undrawn: None, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, done in this process alone."""
    out = tmp_path_factory.mktemp("study")
    Study(task, out=out, **PLAN).run(workers=1)
    return out


@pytest.fixture
def study(task: Task, tmp_path: Path) -> Study:
    return Study(task, out=tmp_path / "study", **PLAN)


@pytest.fixture
def fake(monkeypatch: Patch) -> FakeRay:
    return installed(monkeypatch, a=1, b=1, c=1)


def done_on(study: Study, events: list[Event] | None = None, **options: Any) -> None:
    with Cluster(**options) as cluster:
        study.run(([] if events is None else events).append, executor=on_ray(cluster))


def where(fake: FakeRay, study: Study) -> dict[int, set[str]]:
    """Return the nodes that each seed's groups were sent to."""
    found: dict[int, set[str]] = {}
    planned = nodes.groups(study.spec.options, study.spec.seeds)
    for name, node, arguments in fake.asked:
        if name == "work":
            found.setdefault(planned[arguments[2].group].items[0].seed, set()).add(node)
    return found


def test_a_study_on_nodes_equals_one_that_is_done_here(
    study: Study, finished: Path, fake: FakeRay
) -> None:
    """Bit for bit; every file is written by this process, and nodes keep nothing."""
    events: list[Event] = []
    done_on(study, events)
    assert numbers(study.directory) == numbers(finished)
    assert (study.directory / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    for kind in ("records", "checkpoints"):
        names = [sorted(p.name for p in (d / kind).iterdir()) for d in (study.directory, finished)]
        assert names[0] == names[1]
    wanted = list(items(study.spec.options, study.spec.seeds))
    for kind in ("begin", "done"):
        told = [event.item for event in events if event.kind == kind]
        assert len(told) == len(set(told)) == len(wanted)
    assert not list(Path(tempfile.gettempdir()).glob("secateur-ray-*/*"))
    # the data went into the object store once, and so did what another node asked for
    assert all(arguments[3] is not None for name, _, arguments in fake.asked if name == "work")


def test_nodes_train_the_dense_network_of_the_width_that_was_measured_here(
    task: Task, tmp_path: Path, fake: FakeRay, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(matching, "match", lambda *_, **__: found())
    plan = {**PLAN, "smaller": 0.1, "criteria": ("gate",)}
    here, there = (Study(task, out=tmp_path / name, **plan) for name in ("here", "there"))
    for _ in range(2):
        here.run(workers=1)
        here.match()
        done_on(there)
        there.match()
    names = [path.stem for path in (there.directory / "records").glob("*as-fast*")]
    assert len(names) == 4
    assert numbers(there.directory) == numbers(here.directory)


def test_a_seed_stays_on_a_node_that_has_its_networks(study: Study, monkeypatch: Patch) -> None:
    fake = installed(monkeypatch, a=8, b=8)
    done_on(study)
    assert all(len(nodes) == 1 for nodes in where(fake, study).values())
    assert fake.puts == 1  # the data


def test_every_item_takes_one_thread_and_what_is_asked_for(study: Study, fake: FakeRay) -> None:
    with Cluster(cpus=0.5) as cluster:
        given = cluster.remote(nodes.work).given
        assert cluster.slots == 6
    assert (given["num_cpus"], given["num_gpus"], given["max_retries"]) == (0.5, 0.0, 0)
    assert given["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("error", [WorkerCrashedError, NodeDiedError])
def test_what_a_lost_worker_or_node_did_is_done_again(
    study: Study, finished: Path, fake: FakeRay, error: type[Exception]
) -> None:
    """At every fifth message, but once for each item: what was made arrives, or not."""
    count, item, struck = 0, "", set()

    def listen(node: str, message: dict[str, Any]) -> None:
        nonlocal count, item
        count += 1
        if message.get("event") == "begin":
            item = str(message["item"])
        if count % 5 == 0 and item not in struck:
            struck.add(item)
            if error is NodeDiedError and len(fake.alive) > 1:
                fake.alive.discard(node)
                for folder in Path(tempfile.gettempdir()).glob(f"secateur-ray-*/*-{node}"):
                    shutil.rmtree(folder)
            nodes._turns.clear()
            raise error("it is gone")

    fake.listen = listen
    events: list[Event] = []
    done_on(study, events)
    assert numbers(study.directory) == numbers(finished)
    assert any(event.kind == "lost" for event in events)
    assert not list((study.directory / "failures").iterdir())


def test_an_item_of_which_every_worker_dies_is_one_failure(
    study: Study, finished: Path, fake: FakeRay
) -> None:
    def listen(node: str, message: dict[str, Any]) -> None:
        if message.get("event") == "begin" and unpacked(message["item"]) == Stage(1, "start"):
            raise WorkerCrashedError("killed")

    fake.listen = listen
    with pytest.raises(StudyError, match=r"seed-1_start: 3 workers died while they did it") as told:
        done_on(study)
    assert str(study.directory / "failures" / "seed-1_start.json") in str(told.value)
    whole = numbers(finished)
    assert numbers(study.directory) == {k: v for k, v in whole.items() if k.startswith("seed-0")}
    fake.listen = lambda node, message: None
    done_on(study)
    assert numbers(study.directory) == whole
    assert not list((study.directory / "failures").iterdir())


def test_a_tasks_file_goes_to_the_nodes_and_its_failure_comes_back(
    tmp_path: Path, fake: FakeRay, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    source = tmp_path / "task" / "mine.py"
    source.parent.mkdir()
    source.write_text(
        "import dataclasses, torch\nfrom secateur import classification\n"
        "base = classification('digits', 'mlp', progress=False)\n"
        "def loss(outputs, targets):\n"
        "    if torch.is_grad_enabled(): raise RuntimeError('no loss today')\n"
        "    return base.loss(outputs, targets)\n"
        "task = dataclasses.replace(base, name='mine', description={'v': 1}, loss=loss)\n"
    )
    job = Study(load_task(f"{source}:task"), out=tmp_path / "study", **{**PLAN, "seeds": 1})
    kept = rays._file_of

    def elsewhere(reference: Any) -> Any:
        """Read the file, and be on a machine that does not have it."""
        found = kept(reference)
        source.unlink()
        return found

    monkeypatch.setattr(rays, "_file_of", elsewhere)
    with Cluster() as cluster, pytest.raises(StudyError, match="no loss today") as told:
        job.run(executor=on_ray(cluster))
    failure = tmp_path / "study" / "failures" / "seed-0_start.json"
    assert f"(recorded in {failure})" in str(told.value)
    assert "mine.py" in failure.read_text()
    sys.modules.pop("secateur_task_mine", None)


def test_after_the_driver_is_lost_the_study_goes_on(
    study: Study, finished: Path, fake: FakeRay
) -> None:
    class Killed(BaseException):
        pass

    def killed(event: Event) -> None:
        if event.kind == "done" and len(list((study.directory / "records").iterdir())) > 5:
            raise Killed

    with Cluster() as cluster, pytest.raises(Killed):
        study.run(killed, executor=on_ray(cluster))
    before = set(numbers(study.directory))
    assert 5 < len(before) < len(numbers(finished))
    events: list[Event] = []
    done_on(study, events)
    assert numbers(study.directory) == numbers(finished)
    assert {e.item.id for e in events if e.kind == "found"} == before
    assert not {e.item.id for e in events if e.kind == "begin"} & before
    fake.asked.clear()
    done_on(study)
    assert not where(fake, study)  # all is done


def test_a_network_that_is_lost_here_is_trained_again_there(
    study: Study, finished: Path, fake: FakeRay
) -> None:
    copy_study(finished, study.directory)
    (study.directory / "checkpoints" / "seed-0_gate_rung-0.5.safetensors").write_bytes(b"damaged")
    (study.directory / "records" / "seed-0_gate_rung-0.1.json").unlink()
    with pytest.warns(CorruptFile, match=r"seed-0_gate_rung-0\.5\.safetensors is"):
        done_on(study)
    assert numbers(study.directory) == numbers(finished)
    for path in (finished / "checkpoints").iterdir():
        assert (study.directory / "checkpoints" / path.name).read_bytes() == path.read_bytes()


def of_kind(cpu: str, **versions: str) -> Any:
    return {**machine.versions(), **versions}, {**machine.describe(), "cpu": cpu}


def test_a_seed_is_done_on_one_kind_of_machine(study: Study, monkeypatch: Patch) -> None:
    fake = installed(monkeypatch, a=1, b=1, c=2)
    for node in "ab":
        fake.facts[node] = of_kind("another")
    done_on(study)
    used = where(fake, study)
    assert all(nodes <= {"a", "b"} or nodes == {"c"} for nodes in used.values())
    assert set.union(*used.values()) & {"c"}


def test_a_seed_does_not_go_on_on_another_kind(study: Study, finished: Path, fake: FakeRay) -> None:
    copy_study(finished, study.directory)
    (study.directory / "records" / "seed-1_gate_rung-0.1.json").unlink()
    for node in "abc":
        fake.facts[node] = of_kind("another")
    with pytest.raises(StudyError, match=r"of seed 1, began on other machines .*\(another"):
        done_on(study)


def test_other_versions_are_refused(study: Study, fake: FakeRay) -> None:
    fake.facts["b"] = of_kind("this", torch="1.0")
    with pytest.raises(StudyError, match=r"node b .* has torch 1\.0 and not .* on all nodes"):
        done_on(study)


def test_a_node_of_other_versions_that_joins_is_not_used(fake: FakeRay) -> None:
    fake.facts["b"] = of_kind("this", numpy="1.0")
    fake.alive.discard("b")
    with Cluster() as cluster:
        fake.alive.add("b")
        with pytest.warns(UserWarning, match=r"node b .* has numpy 1\.0 .* it is not used"):
            cluster.look(patience=0.1)
        assert [node.name for node in cluster.nodes] == ["a", "c"]


def test_what_does_not_fit_or_cannot_be_made_elsewhere_is_said(
    study: Study, digits: Task, tmp_path: Path, fake: FakeRay
) -> None:
    with pytest.raises(UsageError, match=r"takes 2 CPU, and no node .* \(there are 1 CPU, 1 CPU"):
        done_on(study, cpus=2)
    with pytest.raises(UsageError, match=r"takes 1 CPU and 0\.5 GPU, and no node"):
        done_on(study, gpus=0.5)
    with pytest.raises(UsageError, match="neither a CPU nor a GPU"):
        Cluster(cpus=0)
    with pytest.raises(UsageError, match="made in this process"):
        done_on(Study(digits, out=tmp_path / "other", **PLAN))
    assert not list((tmp_path / "other" / "records").iterdir())


def test_nodes_that_do_not_say_what_they_are_are_named(
    study: Study, fake: FakeRay, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(fake, "wait", lambda refs, num_returns, timeout: ([], refs))
    with pytest.raises(StudyError, match=r"within 120 s what it is \(a, b, c\): it is slow"):
        done_on(study)


def test_how_many_items_fit_on_a_node() -> None:
    assert slots_of({"CPU": 8}, 1, 0) == 8
    assert slots_of({"CPU": 8}, 3, 0) == 2
    assert slots_of({"CPU": 1}, 0.1, 0) == 10
    assert slots_of({"CPU": 8, "GPU": 3}, 1, 0.4) == 6
    assert slots_of({"CPU": 8, "GPU": 3}, 1, 2) == 1
    assert slots_of({"CPU": 8}, 1, 1) == 0
    assert slots_of({"GPU": 2}, 0, 1) == 2


def test_the_command_line_says_which_options_go_together(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {
        "address": None, "cpus": None, "gpus": None, "workers": None, "device": "auto"
    }  # fmt: skip
    with place("local", **given) as nothing:
        assert nothing is None
    with pytest.raises(UsageError, match="'slurm'; choose one of local, ray"):
        place("slurm", **given)
    with pytest.raises(UsageError, match="--address, --gpus goes with --executor ray"):
        place("local", **{**given, "address": "auto", "gpus": 1.0})
    with pytest.raises(UsageError, match="--device cuda does not go with --executor ray"):
        place("ray", **{**given, "device": "cuda"})
    code, text, _ = run(["study", "--help"], monkeypatch, capsys)
    assert code == 0
    for option in ("--executor", "--address", "--cpus", "--gpus"):
        assert option in text


def test_without_ray_it_is_said_what_to_install(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray, which is not installed .* pip install ray"):
        Cluster().__enter__()


def test_progress_tells_of_nodes_and_of_what_runs(study: Study, fake: FakeRay) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    with Cluster() as cluster:
        assert described(cluster) == "tasks on 3 nodes (a, b, c), 3 at a time"
        shown = StudyProgress(study.spec, console, cluster=cluster)
        shown._told = -1e9
        shown(Event("begin", Stage(0, "start")))
        shown(Event("lost", Stage(0, "start")))
    text = stream.getvalue().replace("\u00a0", " ")
    assert "3 nodes, 1 running" in text
    assert "its worker was lost; it begins again" in text
