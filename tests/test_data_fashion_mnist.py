"""Fashion-MNIST, and the idx format that its files are of."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secateur.data import fashion_mnist, idx, load
from secateur.errors import DataError


def written(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


@given(
    array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0)),
    pack=st.sampled_from([bytes, gzip.compress]),
)
def test_an_array_comes_back(scratch: Path, array: np.ndarray, pack: Callable) -> None:
    content = written(array)
    scratch.write_bytes(pack(content))
    found = idx.read_idx(scratch, array.shape[1:], hashlib.sha256(content).hexdigest())
    assert found.dtype == np.uint8
    assert found.shape == array.shape
    assert np.array_equal(found, array)


GOOD = written(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
HUGE = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 3, 4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no idx file: it begins with nothing"),
        (b"PK\3\4" + GOOD, "no idx file: it begins with 50 4b 03 04"),
        (b"\0\0\7\3" + GOOD[4:], "no idx file: it begins with 00 00 07 03"),
        (b"\0\0\x0d\3" + GOOD[4:], "type float32; give one of bytes"),
        (written(np.zeros(5, np.uint8)), "has 1 dimensions instead of 3"),
        (GOOD[:10], "truncated: it ends in its header"),
        (written(np.zeros((2, 4, 3), np.uint8)), "items of 4x3 bytes instead of 3x4"),
        (GOOD[:-1], "truncated: it holds 39 of 40 bytes"),
        (HUGE, "truncated: it holds 16 of 51,539,607,556 bytes"),
        (GOOD + b"\0", "too long: it holds 41 bytes instead of 40"),
        (GOOD[:-1] + b"\0", "another file: the SHA-256 of its content is [0-9a-f]{64}$"),
        (gzip.compress(GOOD, mtime=0)[:-9], r"not a whole \.gz file"),
        (b"\x1f\x8bnothing of the kind", r"not a whole \.gz file"),
        (gzip.compress(bytes(idx.LARGEST + 1), 1, mtime=0), "holds more than 67,108,864 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"file\.gz .*{why}"):
        idx.read_idx(path, (3, 4), hashlib.sha256(GOOD).hexdigest())


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="cannot be read"):
            idx.read_idx(path)


def made(folder: Path, ending: str) -> dict[str, str]:
    """Write a data set of 40 + 20 images, and return the hashes of its files."""
    sha256 = {}
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = np.arange(count * math.prod(fashion_mnist.SIDES)) % 251
        images = pixels.reshape(count, *fashion_mnist.SIDES).astype(np.uint8)
        labels = (np.arange(count) % 2).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
            content = written(array)
            sha256[f"{name}-ubyte"] = hashlib.sha256(content).hexdigest()
            pack = gzip.compress if ending else bytes
            (folder / f"{name}-ubyte{ending}").write_bytes(pack(content))
    return sha256


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_four_files_make_three_splits(tmp_path: Path, ending: str) -> None:
    sha256 = made(tmp_path, ending)
    data = fashion_mnist.load(tmp_path, sha256=sha256)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 4, 20]
    assert data.shape == (1, 28, 28)
    assert data.validation.labels.tolist() == [0, 1, 0, 1]
    first, second = data.train.images[0, :, :, 0].flatten(), data.test.images[1, 0, 0]
    assert torch.equal(first, (torch.arange(784) % 251).byte())
    assert second.tolist() == [784 % 251]


def test_files_of_another_data_set_are_refused(tmp_path: Path) -> None:
    sha256 = made(tmp_path, ".gz")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is another file"):
        load("fashion_mnist", data_dir=tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte\.gz: .*--data-dir"):
        fashion_mnist.load(tmp_path, sha256=sha256)


def test_without_the_package_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "PACKAGED", tmp_path)
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load("fashion_mnist")


@pytest.mark.skipif(
    not fashion_mnist.PACKAGED.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_the_package_holds_what_is_expected() -> None:
    data = load("fashion_mnist")
    for part, count in ((data.train, 5400), (data.validation, 600), (data.test, 1000)):
        assert part.labels.bincount().tolist() == [count] * 10
    pixels = torch.cat([data.train.images, data.validation.images]).flatten()
    counts = pixels.bincount(minlength=256).double()  # exact, and little memory
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * levels).sum() / counts.sum()
    variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
    assert data.mean == pytest.approx([mean.item()], abs=1e-8)
    assert data.std == pytest.approx([math.sqrt(variance.item())], abs=1e-8)
