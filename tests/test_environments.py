"""Engines to measure against: which there are, and the Python that each runs in."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secateur.bench import environments
from secateur.errors import CompileError, UsageError


def test_peers_are_named_with_commas() -> None:
    found = environments.peers("openvino, onnxruntime")
    assert [peer.name for peer in found] == ["openvino", "onnxruntime"]
    assert environments.peers("") == ()


@pytest.mark.parametrize(("names", "says"), [("tensorrt", "tensorrt"), ("openvino,openvino", "tw")])
def test_unknown_and_repeated_peers_are_refused(names: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        environments.peers(names)


@pytest.mark.parametrize("peer", environments.PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_is_whole(peer: environments.Peer) -> None:
    """Its file says how to load a network and, where needed, how to quantise it; with no engine."""
    assert peer.name.startswith(peer.engine)
    assert peer.packages[0].startswith(f"{peer.engine}==")
    assert all("==" in package for package in peer.packages)
    module = importlib.import_module(f"secateur.bench.engines.{peer.engine}")
    expected = {"load": ["model", "feeds", "threads", "axes", "settings"]}
    if peer.quantised:
        expected["quantise"] = ["model", "folder", "batches", "settings"]
    for name, arguments in expected.items():
        assert list(inspect.signature(getattr(module, name)).parameters) == arguments


def test_a_given_environment_is_used(tmp_path: Path) -> None:
    binary = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    binary.parent.mkdir()
    binary.touch()
    places = environments.given((f"openvino={tmp_path}",))
    assert environments.python(environments.PEERS["openvino"], places) == binary


@pytest.mark.parametrize("option", ["openvino", "tensorrt=/tmp", "openvino=/nowhere/at/all"])
def test_a_wrong_environment_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=r"environment|there is no Python"):
        environments.given((option,))


def test_this_python_is_used_where_it_has_the_peer(tmp_path: Path) -> None:
    peer = environments.Peer("json", "json", ("json==0",))
    assert environments.python(peer, {}, cache=tmp_path) == Path(sys.executable)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def pretend(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", pretend)
    peer = environments.Peer("no_such_engine", "no_such_engine", ("no_such_engine==1.0",))
    first = environments.python(peer, {}, cache=tmp_path)
    assert tmp_path in first.parents
    assert commands[1][-1] == "no_such_engine==1.0"
    assert environments.python(peer, {}, cache=tmp_path) == first
    assert len(commands) == 2


def test_a_failed_installation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 1, "", "no space left")

    monkeypatch.setattr(environments.subprocess, "run", fail)
    peer = environments.Peer("no_such_engine", "no_such_engine", ("no_such_engine==1.0",))
    with pytest.raises(CompileError, match=r"no space left\n.*--env no_such_engine="):
        environments.python(peer, {}, cache=tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_peer_for_other_pythons_says_which(tmp_path: Path) -> None:
    peer = environments.Peer(
        "no_such_engine", "no_such_engine", ("no_such_engine==1.0",), False, ((3, 6), (3, 7))
    )
    with pytest.raises(CompileError, match=r"only on 3\.6 to 3\.7.*--env no_such_engine=FOLDER"):
        environments.python(peer, {}, cache=tmp_path)
