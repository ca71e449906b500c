"""Readers of data, and of networks in ONNX."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import numpy_helper

import fake_cifar10
import onnx_models
from fuzz_reader import Reader, folder, in_file
from secateur.bench import calibration
from secateur.compiler import onnx_reader, passes
from secateur.data import archive, cifar10_forms, idx
from secateur.quantization import inputs


def _batch(ending: str) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        name = fake_cifar10.NAMES[0]
        labels = {"train_lables.json": json.dumps([1] * 20).encode()}
        given = {f"{name}{ending}": content, **labels}
        return cifar10_forms.decode(given, {name: "0" * 64}, fake_cifar10.RECORDS, "here")

    return read


def _pickles() -> list[bytes]:
    return [fake_cifar10.pickled_files()[fake_cifar10.NAMES[0]]]


def _sheets() -> list[bytes]:
    return [fake_cifar10.sheet_files()[f"{fake_cifar10.NAMES[0]}.png"]]


def _archive(tar: bytes) -> object:
    """Read an archive that holds what was drawn: the compression around it would hide it."""
    path = folder() / "x.tar.gz"
    path.write_bytes(gzip.compress(tar, 1))
    return archive.read_archive(path, frozenset({"data_batch_1"}))


def _archives() -> list[bytes]:
    return [gzip.decompress(fake_cifar10.archive({"data_batch_1": b"abc", "b": b"x" * 600}))]


def _arrays() -> list[bytes]:
    array, named = io.BytesIO(), io.BytesIO()
    np.save(array, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.savez(named, x=np.zeros(3), y=np.ones((2, 2), np.int8))
    return [array.getvalue(), named.getvalue()]


def _idx() -> list[bytes]:
    content = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, *range(24)])
    return [content, gzip.compress(content)]


def _array(path: Path) -> object:
    calibration.read(path)
    return inputs.read_data(path)


def _onnx(content: bytes) -> object:
    with np.errstate(all="ignore"):
        return passes.apply(onnx_reader.read(content).graph)


def _networks() -> list[bytes]:
    true = numpy_helper.from_array(np.array(True))
    branches = onnx_models.if_model([onnx_models.node("Constant", "", "c", value=true)])
    return [proto.SerializeToString() for proto in (onnx_models.linear(), branches)]


READERS = {
    "pickle": Reader(_batch(""), _pickles),
    "sheet": Reader(_batch(".png"), _sheets),
    "archive": Reader(_archive, _archives),
    "idx": Reader(in_file("x.gz", lambda path: idx.read_idx(path, (3, 4))), _idx),
    "array": Reader(in_file("x.npy", _array), _arrays),
    "onnx": Reader(_onnx, _networks),
}
