"""Readers of what is shipped: folders of the Hub, folders of C, engines."""

from __future__ import annotations

import hashlib
import shutil
import struct
from functools import cache
from typing import Any

import torch
from torch import nn

import secateur
from fuzz_reader import Reader, folder, in_file
from secateur.compiler import artifact, bundle
from secateur.compiler.targets import Target
from secateur.terminal.verification import verify


def _hub(content: bytes) -> object:
    place = folder() / "hub"
    if not place.exists():
        torch.manual_seed(0)
        secateur.save_pretrained(nn.Linear(8, 4), place)
    (place / "config.json").write_bytes(content)
    verify(place)
    return secateur.from_pretrained(place, nn.Linear(8, 4))


def _configs() -> list[bytes]:
    place = folder() / "configs"
    torch.manual_seed(0)
    secateur.save_pretrained(nn.Linear(8, 4), place, config={"a": {"b": [1, None]}})
    return [(place / "config.json").read_bytes(), b'{"hidden_size": 8}']


@cache
def _target() -> Target:
    return Target("x", "linux", "x86_64", 16, 32, features=("avx2",))


def _network() -> dict[str, Any]:
    port = {"name": "x", "dtype": "float32", "shape": [3, 4]}
    network = {"name": "n", "secateur": "0.1.0", "batched": True, "batches": [1], "merged": []}
    return {**network, "inputs": [port], "outputs": [port]}


def _bundle(content: bytes) -> object:
    place = folder() / "c"
    if not place.exists():
        _manifests()
    (place / bundle.MANIFEST).write_bytes(content)
    return list(bundle.check(place))


def _manifests() -> list[bytes]:
    place = folder() / "c"
    shutil.rmtree(place, ignore_errors=True)
    bundle.write_bundle(place, {"model.c": "int x;\n"}, bytes(32), _network(), _target())
    return [(place / bundle.MANIFEST).read_bytes()]


def _engine_of(text: bytes) -> object:
    """Read an engine whose description is what was drawn, with a checksum that fits."""
    body = bytes(100) + text
    lengths = struct.pack("<QQ", 100, len(text))
    tail = lengths + hashlib.sha256(body + lengths).digest() + artifact.MAGIC
    path = folder() / "described.so"
    path.write_bytes(body + tail)
    artifact.is_engine(path)
    info = artifact.read(path)
    return artifact.check(info)


def _engine_texts() -> list[bytes]:
    content = artifact.pack(b"", _target(), _network())
    return [content[: content.rindex(b"}") + 1]]


READERS = {
    "hub": Reader(_hub, _configs, json=True),
    "bundle": Reader(_bundle, _manifests, json=True),
    "engine": Reader(
        in_file("x.so", artifact.read), lambda: [artifact.pack(b"code", _target(), _network())]
    ),
    "engine-text": Reader(_engine_of, _engine_texts, json=True),
}
