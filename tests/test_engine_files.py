"""Files of engines are checked: whole, undamaged, ours, and for this machine."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_network as tiny
from secateur import files
from secateur.compiler import artifact, targets
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target
from secateur.errors import CompileError, FileError
from tiny_engine import compiled, native


@pytest.fixture(scope="module")
def target() -> Target:
    return native()


@pytest.fixture(scope="module")
def content(target: Target) -> bytes:
    return compiled(target)


def test_a_file_that_was_replaced_is_loaded_anew(
    content: bytes, target: Target, tmp_path: Path
) -> None:
    path, x = tmp_path / "tiny.so", tiny.samples(2)
    files.write(path, content)
    first = Engine.load(path)
    files.write(path, compiled(target, bytes(4 * tiny.WIDTH)))
    second = Engine.load(str(path))
    np.testing.assert_array_equal(first(x)[0], tiny.expected(x))
    np.testing.assert_array_equal(second(x)[0], 2 * x)


def test_every_truncation_is_found(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tiny.so"
    for length in (0, 1, 63, 64, 1000, len(content) // 2, len(content) - 64, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"cannot read .*tiny\.so: .*truncated"):
            Engine.load(path)


def test_every_damage_is_found(content: bytes) -> None:
    for place in (0, 1000, len(content) - 65, len(content) - 64, len(content) - 50):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(FileError, match=r"cannot read this engine: its checksum is wrong"):
            Engine(bytes(damaged))
    with pytest.raises(FileError, match=r"checksum is wrong"):
        Engine(content[:500] + content[501:])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*absent\.so: No such file"):
        Engine.load(tmp_path / "absent.so")
    with pytest.raises(FileError, match=r"cannot read .*: Is a directory"):
        Engine.load(tmp_path)


def forged(text: bytes, library: int = 0, length: int | None = None) -> bytes:
    """Return an engine without a library, whose checksum is right."""
    body = text + struct.pack("<QQ", library, len(text) if length is None else length)
    return body + sha256(body).digest() + artifact.MAGIC


@pytest.mark.parametrize(
    "content",
    [
        forged(b"{}"),
        forged(b"[]"),
        forged(b"not JSON"),
        forged(b"\xff\xfe"),
        forged(b"{}", 2**63, 2**64 - 1),
        forged(b"{}", length=10**12),
        forged(b'{"format": 1, "network": {"inputs": 5}}'),
        forged(b'{"format": "x", "network": {}}'),
        forged(b'{"format":1,"network":{"inputs":[{"name":"x","dtype":"?!","shape":[]}]}}'),
    ],
)
def test_a_forged_description_is_refused(content: bytes) -> None:
    with pytest.raises(FileError, match=r"cannot read this engine: .*; "):
        Engine(content)


def test_a_file_of_a_later_version_is_refused() -> None:
    with pytest.raises(FileError, match=r"later secateur \(9\.1\).*upgrade this one"):
        artifact.read(forged(b'{"format": 2, "network": {"secateur": "9.1"}}'))


def test_an_engine_for_another_system_is_named() -> None:
    here = (targets.this_system(), targets.this_architecture())
    for target in targets.CROSS.values():
        if (target.system, target.architecture) != here:
            with pytest.raises(
                CompileError, match=rf"for {target.name}\b.*compile the network aga"
            ):
                Engine(artifact.pack(b"", target, tiny.network()))


def test_an_engine_for_a_better_processor_is_refused_before_it_is_loaded(target: Target) -> None:
    if not artifact._instructions():
        pytest.skip("this system does not tell what its processor can do")
    better = replace(target, features=(*target.features, "avx9000"))
    with pytest.raises(CompileError, match=r"needs avx9000, which this processor lacks"):
        Engine(artifact.pack(b"", better, tiny.network()))


def test_the_engine_itself_refuses_a_lesser_processor(target: Target) -> None:
    """Where the system does not tell, and for callers from C."""
    if target.architecture != "x86_64" or "fma4" in artifact._instructions():
        pytest.skip("takes an x86 processor without FMA4")
    newer = replace(target, flags=(*target.flags, "-D__FMA4__"))
    with pytest.raises(CompileError, match=r"native: this engine needs fma4, which this process"):
        Engine(compiled(newer))


def test_a_full_disk_of_temporary_files_is_named(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileError, match=r"temporary file .*No space left on device; free some"):
        Engine(content)
    assert not list(tmp_path.iterdir())


def test_what_is_no_library_is_refused(target: Target) -> None:
    with pytest.raises(CompileError, match=r"the system cannot load this engine"):
        Engine(artifact.pack(b"not a library", target, tiny.network()))
