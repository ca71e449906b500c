"""Which cores there are to use, and what others take of them, read from a made-up system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from secateur import machine
from secateur.errors import UsageError


def test_one_thread_of_each_physical_core_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        folder = tmp_path / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    monkeypatch.setattr(machine, "SYSTEM", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert machine.usable_cores() == (0, 2, 1, 3)
    assert machine.cores_for(None) == (0, 2)
    assert machine.cores_for(3) == (0, 2, 1)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_need_cores(threads: int) -> None:
    with pytest.raises(UsageError, match=r"choose a number from 1 to"):
        machine.cores_for(threads)


def test_what_others_take_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(busy: int, ours: int) -> None:
        idle = 10_000 - busy
        (tmp_path / "stat").write_text(f"cpu 9 9 9 9 9 9 9 9\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\n")
        for number in (os.getpid(), 7):
            (tmp_path / str(number)).mkdir(exist_ok=True)
            fields = " ".join(["S", *["0"] * 10, str(ours), "0"])
            (tmp_path / str(number) / "stat").write_text(f"{number} (a) name) {fields}\n")

    monkeypatch.setattr(machine, "PROC", tmp_path)
    told(0, 0)
    alone = machine.OtherProcesses([0], [7])
    told(4, 2)
    assert alone.share() == 0
    crowded = machine.OtherProcesses([0], [7])
    told(9_000, 2)
    assert crowded.share() == 1
    (tmp_path / "stat").unlink()
    assert crowded.share() is None


def test_cores_that_the_system_does_not_tell_of_are_unknown_and_not_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    folder = tmp_path / str(os.getpid())
    folder.mkdir()
    (folder / "stat").write_text(" ".join([f"{os.getpid()} (a) S", *["0"] * 20]))
    for told in ("cpu0 1 0 0 1 0 0 0 0 0 0\n", "cpu0 odd\n", ""):  # and nothing of cpu5
        (tmp_path / "stat").write_text(told)
        assert machine.OtherProcesses([0, 5]).share() is None
