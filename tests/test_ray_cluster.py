"""A study on a real Ray cluster: three nodes that are processes of this machine, and some die.

`make test-ray` runs this; it needs Ray, and takes minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secateur.study.loading import load_task
from secateur.study.study import Study
from study_runs import numbers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

ROOT = Path(__file__).parents[1]
SOURCE = """
import dataclasses, os, time
from pathlib import Path
from secateur import classification

here = Path(__file__).parent
(here / "pids" / str(os.getpid())).touch()
print("the task says something")
base = classification("digits", "mlp", progress=False)

def loss(outputs, targets):
    time.sleep(0.05)
    return base.loss(outputs, targets)

task = dataclasses.replace(base, name="mine", loss=loss, description={"version": 1})
"""
PLAN: dict[str, Any] = {
    "keep": (0.5, 0.2, 0.1), "criteria": ("gate", "magnitude"), "seeds": 3, "epochs": 2,
    "gate_epochs": 2.0, "calibration": 128, "device": "cpu", "batch_size": 128,
}  # fmt: skip
ARGUMENTS = ["--keep", "0.5,0.2,0.1", "--criteria", "gate,magnitude", "--seeds", "3"]
ARGUMENTS += ["--epochs", "2", "--gate-epochs", "2", "--calibration", "128", "--batch-size", "128"]
ARGUMENTS += ["--margin", "0.5", "--smaller", "0.0", "--no-measure", "--json"]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("OMP_NUM_THREADS", "2")  # must not matter
        # which reads the environment when it is imported
        pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the task's file is, and a mark of every process that has imported it."""
    found = tmp_path_factory.mktemp("task")
    (found / "pids").mkdir()
    (found / "mine.py").write_text(SOURCE)
    return found


@pytest.fixture(scope="module")
def finished(undrawn: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, done on this machine."""
    out = tmp_path_factory.mktemp("study")
    Study(load_task(f"{folder}/mine.py:task"), out=out, **PLAN, smaller=0.0, margin=0.5).run()
    return out


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Three nodes of one core each, as processes; the first is the head."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100_000_000}
    found = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    found.others = [found.add_node(**small) for _ in range(2)]
    yield found
    found.shutdown()


class Driver:
    """`secateur study --executor ray`, in a process of its own."""

    def __init__(self, folder: Path, out: Path, *words: str) -> None:
        command = [sys.executable, "-m", "secateur", "study", "mine.py:task", *ARGUMENTS]
        command += ["--executor", "ray", "--out", str(out), *words]
        self.out, self.records = out, out / "records"
        self._log = folder / f"log-{time.monotonic_ns()}"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def until(self, share: float, total: int) -> None:
        """Wait until a share of all records is there."""
        self.wait_for(lambda: len(list(self.records.glob("*.json"))) >= share * total)

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not true():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self) -> str:
        text, _ = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, self.said
        return text

    @property
    def said(self) -> str:
        return " ".join(self._log.read_text().split())  # lines are wrapped


def others(folder: Path, driver: Driver) -> list[int]:
    """Return the processes that work for a driver."""
    pids = [int(path.name) for path in (folder / "pids").iterdir()]
    return [p for p in pids if p not in (driver.process.pid, os.getpid()) and alive(p)]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_a_node_and_the_driver_are_killed_and_no_number_changes(
    cluster: Any, folder: Path, finished: Path, tmp_path: Path
) -> None:
    total = len(numbers(finished))
    out = tmp_path / "study"
    driver = Driver(folder, out, "--address", cluster.address)
    driver.until(0.1, total)
    os.kill(others(folder, driver)[0], signal.SIGKILL)
    driver.until(0.3, total)
    cluster.remove_node(cluster.others.pop(), allow_graceful=False)
    driver.until(0.5, total)
    working = others(folder, driver)
    assert working
    driver.process.kill()
    driver.process.communicate()
    assert "its worker was lost; it begins again" in driver.said
    again = Driver(folder, out, "--address", cluster.address)
    text = again.end()
    # the task was imported there too; of Ray and of what workers print there is nothing
    assert text.startswith("the task says something\n{")
    assert text.count("\n") == 2
    assert numbers(out) == numbers(finished)
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    for path in (finished / "checkpoints").iterdir():
        assert (out / "checkpoints" / path.name).read_bytes() == path.read_bytes()
    assert not list((out / "failures").iterdir())
    assert "resuming: " in again.said
    assert not any(map(alive, working))
    deadline = time.monotonic() + 30
    while others(folder, again) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not others(folder, again)


def test_a_new_cluster_of_this_machine_ends_with_the_study(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    driver = Driver(folder, tmp_path / "study", "--workers", "2")
    driver.end()
    assert numbers(tmp_path / "study") == numbers(finished)
    assert not others(folder, driver)
