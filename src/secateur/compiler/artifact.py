"""Engine files: a library, and after it what it is, which machine it needs, and a checksum.

    library | JSON | tail of 64 bytes: length of library, length of JSON, SHA-256 of all before
    the tail and of the two lengths, magic

Systems load such a file as the library that it begins with. In a wasm module, JSON and tail are a
custom section. The checksum finds damage; it does not make a file from a stranger safe to run.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from secateur.compiler import targets
from secateur.compiler.targets import Target
from secateur.errors import CompileError, FileError
from secateur.files import LARGEST_JSON, parse_json, refusing

FORMAT = 1
"""Of the JSON; a file of a later one is refused."""

MAGIC = b"secateur engine\n"

_LENGTHS = struct.Struct("<QQ")
_TAIL = _LENGTHS.size + 32 + len(MAGIC)
_SECTION = b"secateur"
_CHUNK = 1 << 20
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Info:
    """What an engine file says of itself.

    Attributes:
        target: name of the target that it was compiled for.
        system, architecture, features, lanes: of that target; see `Target`.
        network: name, secateur (version), batched, values, origin (SHA-256 of the model), inputs
            and outputs (name, dtype, shape of one sample), batches and steps of the programs.
        bytes: size of the file.
    """

    target: str
    system: str
    architecture: str
    features: tuple[str, ...]
    lanes: int
    network: Mapping[str, Any]
    bytes: int = 0


def pack(library: bytes, target: Target, network: Mapping[str, Any]) -> bytes:
    """Return the content of an engine file; write it with `files.write`.

    Args:
        library: what the toolchain built.
        target: what for.
        network: see `Info.network`.
    """
    content = {
        "format": FORMAT,
        "target": target.name,
        "system": target.system,
        "architecture": target.architecture,
        "features": target.features,
        "lanes": target.lanes,
        "network": dict(network),
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    if target.system == "wasi":
        name = _leb(len(_SECTION)) + _SECTION
        library += b"\0" + _leb(len(name) + len(text) + _TAIL) + name
    body = library + text
    lengths = _LENGTHS.pack(len(library), len(text))
    return body + lengths + sha256(body + lengths).digest() + MAGIC


def read(source: Path | bytes) -> Info:
    """Return what an engine file says of itself, once its checksum is right.

    Raises:
        FileError: it is missing, not an engine, truncated, corrupted, or of a later version.
    """
    name = "this engine" if isinstance(source, bytes) else str(source)
    with (
        refusing(name, "copy it again, or compile the network again"),
        BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        return _read(file, name)


def is_engine(path: Path) -> bool:
    """Return whether a file is built as engine files are, of whatever version and target.

    An engine whose library is damaged is one, too: nothing is lost with it.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
        if len(tail) < _TAIL or not tail.endswith(MAGIC):
            return False
        library, length = _LENGTHS.unpack_from(tail)
        if library + length + _TAIL != size or length > LARGEST_JSON:
            return False
        file.seek(library)
        try:
            content = parse_json(file.read(length))
        except ValueError:
            return False
    return isinstance(content, dict) and {"format", "target", "network"} <= content.keys()


def check(info: Info) -> None:
    """Refuse an engine that this machine cannot run.

    Raises:
        CompileError: it is for another system or processor; says which, and what this one is.
    """
    here = (targets.this_system(), targets.this_architecture())
    again = "compile the network again, for this machine"
    if info.system == "wasi":
        raise CompileError(
            f"this engine is for {info.target}: a wasm module, which a wasm runtime loads and "
            f"Python cannot; {again}, to run it here"
        )
    if (info.system, info.architecture) != here:
        raise CompileError(
            f"this engine is for {info.target} ({info.system} on {info.architecture}), but this "
            f"machine is {here[0]} on {here[1]}; {again}"
        )
    has = _instructions()
    lacking = [name for name in info.features if has and name not in has]
    if lacking:
        raise CompileError(
            f"this engine is for {info.target} and needs {', '.join(lacking)}, which this "
            f"processor lacks; {again}"
        )


@cache
def _instructions() -> frozenset[str]:
    """Return the instruction sets of this processor; none where the system does not tell.

    The engine itself checks once more.
    """
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def _read(file: BinaryIO, name: str) -> Info:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if len(tail) < _TAIL or not tail.endswith(MAGIC):
        raise ValueError("it is not a secateur engine, or is truncated")
    library, length = _LENGTHS.unpack_from(tail)
    checksum = sha256()
    if library + length + _TAIL == size:
        file.seek(0)
        left = size - _TAIL
        while left and (chunk := file.read(min(_CHUNK, left))):
            checksum.update(chunk)
            left -= len(chunk)
        checksum.update(tail[: _LENGTHS.size])
    if checksum.digest() != tail[_LENGTHS.size : -len(MAGIC)]:
        raise ValueError("its checksum is wrong")
    file.seek(library)
    content = parse_json(file.read(length))
    network = content["network"]
    if not isinstance(network, dict):
        raise ValueError("what it says of its network is no JSON object")
    if content["format"] > FORMAT:
        raise FileError(
            f"{name} was made by a later secateur ({network.get('secateur')}); upgrade this one"
        )
    for array in (*network["inputs"], *network["outputs"]):
        _ = str(array["name"]), np.dtype(array["dtype"]), tuple(map(int, array["shape"]))
    return Info(
        target=str(content["target"]),
        system=str(content["system"]),
        architecture=str(content["architecture"]),
        features=tuple(map(str, content["features"])),
        lanes=int(content["lanes"]),
        network={**network, "batched": bool(network["batched"])},
        bytes=size,
    )


def _leb(number: int) -> bytes:
    """Return a whole number as wasm writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))
