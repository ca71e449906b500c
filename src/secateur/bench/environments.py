"""Where other engines live: each in an environment of its own, made when it is first needed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import platformdirs
from filelock import FileLock

from secateur.bench import engines
from secateur.errors import CompileError, UsageError


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine to compare with, as it comes or at a precision of its own."""

    name: str
    engine: str
    """Its file in `engines`, and the name of its distribution."""
    packages: tuple[str, ...]
    """What its environment holds, with versions."""
    skips_zeros: bool = False
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 11), (3, 99))
    """The first and the last Python that its packages install on."""
    quantised: bool = False
    """It runs the network in int8, quantised after training by its own tools."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For its engine's `load`."""


def _peers() -> Iterator[Peer]:
    for name in sorted(module.name for module in iter_modules(engines.__path__)):
        module = import_module(f"{engines.__name__}.{name}")
        for peer, facts in getattr(module, "PEERS", {}).items():
            yield Peer(
                peer,
                name,
                (*module.PACKAGES, *facts.get("packages", ())),
                getattr(module, "SKIPS_ZEROS", False),
                getattr(module, "PYTHONS", ((3, 11), (3, 99))),
                facts.get("quantised", False),
                facts.get("settings", {}),
            )


PEERS = {peer.name: peer for peer in _peers()}
"""Every peer of every file in `engines`, by name."""


def peers(names: str) -> tuple[Peer, ...]:
    """Return the peers that a list with commas names, in its order; none for an empty one.

    Raises:
        UsageError: a name that is not in `PEERS`, or one given twice.
    """
    listed = [name.strip() for name in names.split(",") if name.strip()]
    for name in listed:
        if name not in PEERS:
            raise UsageError(f"cannot compare with {name!r}; choose of {', '.join(PEERS)}")
        if listed.count(name) > 1:
            raise UsageError(f"{name} is named twice in {names!r}; name it once")
    return tuple(PEERS[name] for name in listed)


def given(options: tuple[str, ...]) -> dict[str, Path]:
    """Return peer → Python of its environment, from options of the form `openvino=FOLDER`.

    The environment of an engine serves its other precisions too, unless they are given their own.

    Raises:
        UsageError: another form, another peer, or no Python there.
    """
    found = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals or name not in PEERS:
            raise UsageError(
                f"cannot use environment {option!r}; write PEER=FOLDER, with a peer of "
                f"{', '.join(PEERS)}"
            )
        found[name] = _python_in(Path(path).absolute())
        if not found[name].is_file():
            raise UsageError(
                f"there is no Python at {found[name]}, which {option!r} asks for; give the folder "
                "of a virtual environment"
            )
    return found


def here(peer: Peer) -> bool:
    """Return whether this Python has a peer's packages, in whatever versions."""
    return all(importlib.util.find_spec(package.split("==")[0]) for package in peer.packages)


def python(peer: Peer, environments: Mapping[str, Path], *, cache: Path | None = None) -> Path:
    """Return the Python that has a peer: a given one, this one, or one of its own in the cache.

    Args:
        peer: whose.
        environments: peer → Python, as `given` returns.
        cache: folder of environments; made if need be. By default the user's cache.

    Raises:
        CompileError: its packages cannot be installed; with the end of what pip said.
    """
    for name in (peer.name, peer.engine):
        if name in environments:
            return environments[name]
    if here(peer):
        return Path(sys.executable)
    first, last = peer.pythons
    if not first <= sys.version_info[:2] <= last:
        raise CompileError(
            f"{' '.join(peer.packages)} cannot be installed on this Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}, only on {first[0]}.{first[1]} to "
            f"{last[0]}.{last[1]}; make an environment with such a Python, and name it with "
            f"--env {peer.name}=FOLDER"
        )
    what = f"{sys.version_info[0]}.{sys.version_info[1]} {' '.join(peer.packages)}"
    name = f"{peer.engine}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"
    folder = (cache or platformdirs.user_cache_path("secateur") / "engines") / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():  # written last
            _install(peer, folder)
    return _python_in(folder)


def _install(peer: Peer, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [str(_python_in(folder)), "-m", "pip", "install", "--no-input", *peer.packages],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            said = (done.stderr or done.stdout).strip()[-600:]
            raise CompileError(
                f"cannot install {' '.join(peer.packages)} to compare with: {said}\n"
                f"Leave {peer.name} out of --against, or name an environment that has it with "
                f"--env {peer.name}=FOLDER"
            )
    (folder / "complete").touch()


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
