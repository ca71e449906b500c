"""Model files that were damaged, or made to do harm: one error, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur import Budget, Masks
from secateur.errors import FileError
from secateur.pruning.files.model_file import load, save
from secateur.pruning.files.reading import load_masks, read


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30))


def content(state: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {n: (t.dtype, tuple(t.shape), t.numpy().tobytes()) for n, t in state.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("damage")
    torch.manual_seed(0)
    model = network()
    masks = Masks({"0.weight": torch.rand(30, 20) < 0.1})
    masks.apply(model)
    path = folder / "model.safetensors"
    save(model, path, masks=masks, budget=Budget(0.1))
    return path.read_bytes(), content(model.state_dict()), folder / "damaged.safetensors"


@settings(max_examples=300)
@given(data=st.data())
def test_no_damage_goes_unnoticed(saved: Any, data: st.DataObject) -> None:
    good, wanted, path = saved
    bad = bytearray(good)
    # as often in the small header as in the values behind it
    end = data.draw(st.sampled_from([10, len(good) // 3, len(good)]))
    for at in data.draw(st.lists(st.integers(0, end - 1), max_size=4)):
        bad[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(bad[: data.draw(st.just(len(bad)) | st.integers(0, len(bad)))]))
    model = network()
    before = content(model.state_dict())
    try:
        state, _ = read(path)
    except FileError:
        with pytest.raises(FileError):
            load(path, model)
        assert content(model.state_dict()) == before
    else:
        assert content(state) == wanted


def test_every_flipped_byte_is_noticed(saved: Any) -> None:
    good, _, path = saved
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(FileError):
            read(path)


def rewritten(saved: Any, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the file with another description, and the hash that goes with it."""
    return hostile(saved, lambda text: json.dumps(change(loaded := json.loads(text)) or loaded))


def hostile(saved: Any, change: Callable[[str], str], **more: np.ndarray) -> bytes:
    good = saved[0]
    size = int.from_bytes(good[:8], "little")
    metadata = json.loads(good[8 : 8 + size])["__metadata__"]
    tensors = {**safetensors.numpy.load(good), **more}
    old = json.loads(metadata["description"])
    text = change(metadata["description"])
    sha = hashlib.sha256(text.encode())
    for entry in old["tensors"]:
        sha.update(tensors[entry["name"]].tobytes())
    metadata.update(description=text, sha256=sha.hexdigest())
    return safetensors.numpy.save(tensors, metadata)


def weight(description: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = description["tensors"][0]
    assert found["name"] == "0.weight"
    return found


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "huge shape": lambda d: weight(d).update(shape=[2**40, 2**20]),
    "shape over 64 bits": lambda d: weight(d).update(shape=[2**64]),
    "negative size": lambda d: weight(d).update(shape=[-20, -30]),
    "no size": lambda d: weight(d).update(shape=[20.0, 30]),
    "no shape": lambda d: weight(d).update(shape="20"),
    "many dimensions": lambda d: weight(d).update(shape=[600] + [1] * 100),
    "negative count": lambda d: weight(d).update(count=-1),
    "large count": lambda d: weight(d).update(count=10**6),
    "count of another kind": lambda d: weight(d).update(count=True),
    "fewer bytes": lambda d: weight(d).update(bytes=3),
    "more bytes": lambda d: weight(d).update(bytes=10**9),
    "another dtype": lambda d: weight(d).update(dtype="float64"),
    "unknown dtype": lambda d: weight(d).update(dtype="object"),
    "dtype of another kind": lambda d: weight(d).update(dtype=["float32"]),
    "unknown form": lambda d: weight(d).update(form="rice"),
    "another form": lambda d: weight(d).update(form="bits"),
    "smaller shape": lambda d: weight(d).update(shape=[3, 20]),
    "twice": lambda d: d["tensors"].append(weight(d)),
    "not described": lambda d: d["tensors"].pop(),
    "not there": lambda d: d["tensors"].append({**weight(d), "name": "more"}),
    "no entry": lambda d: d["tensors"].append(3),
    "tied to nothing": lambda d: d["tensors"].append({"name": "more", "tied": "nothing"}),
    "tied to itself": lambda d: d["tensors"].append({"name": "more", "tied": "more"}),
    "mask of another kind": lambda d: weight(d).update(mask=1),
    "no tensors": lambda d: d.pop("tensors"),
    "budget out of range": lambda d: d["budget"].update(keep=3),
    "budget of another kind": lambda d: d.update(budget=3),
    "no overrides": lambda d: d["budget"].update(overrides=[1]),
    "architecture with code": lambda d: d.update(
        architecture={"name": "__import__('os'):x", "arguments": {}}
    ),
    "architecture of another kind": lambda d: d.update(architecture=["a:b"]),
    "provenance of another kind": lambda d: d.update(provenance="x"),
    "versions of another kind": lambda d: d.update(versions={"torch": 2}),
    "no date": lambda d: d.update(date=3),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_descriptions_are_refused(change: Any, saved: Any) -> None:
    path = saved[2]
    path.write_bytes(rewritten(saved, change))
    for reader in (read, load_masks, lambda p: load(p, network())):
        with pytest.raises(FileError, match=r"cannot read .*damaged\.safetensors"):
            reader(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{", '{"tensors":' + "[" * 100_000, "NaN", "[" + "9" * 5000 + "]", '"\\ud800"'],
    ids=range(8),
)
def test_hostile_json_is_refused(text: str, saved: Any) -> None:
    path = saved[2]
    path.write_bytes(hostile(saved, lambda _: text))
    with pytest.raises(FileError, match=r"cannot read .*damaged\.safetensors"):
        read(path)


def test_an_unchanged_description_would_have_been_read(saved: Any) -> None:
    path = saved[2]
    path.write_bytes(rewritten(saved, lambda _: None))
    assert content(read(path)[0]) == saved[1]


@pytest.mark.parametrize(
    "more", [{"more": np.zeros(3, np.uint8)}, {"0.bias": np.zeros(30, np.float32)}]
)
def test_extra_or_other_tensors_are_refused(more: Any, saved: Any) -> None:
    path = saved[2]
    path.write_bytes(hostile(saved, lambda text: text, **more))
    with pytest.raises(FileError, match="not as the description says"):
        read(path)


def test_gates_of_no_weight_are_refused(path: Path) -> None:
    save({**nn.Linear(2, 2).state_dict(), "weight_gate": torch.zeros(3)}, path, gates=True)
    with pytest.raises(FileError, match="'weight_gate' is of no parameter"):
        load(path, nn.Linear(2, 2))


def test_pickles_are_refused_with_how_to_convert(path: Path) -> None:
    state = nn.Linear(2, 2).state_dict()
    for zipped in (True, False):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(FileError, match=r"pickle.*torch.load\(path, weights_only=True\)"):
            load(path, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: safetensors.torch.save({"x": torch.ones(2)}, {"format": "pt"}), "plain tensors"),
        (lambda: safetensors.torch.save({"x": torch.ones(2)}), "plain tensors"),
        (
            lambda: safetensors.torch.save({}, {"format": "secateur model 2"}),
            "'secateur model 2', not 'secateur model 1'",
        ),
        (lambda: b"", "cannot read"),
        (lambda: b"\xff" * 100, "cannot read"),
        (lambda: (2**40).to_bytes(8, "little") + b"{", "cannot read"),
        (lambda: b"some text that is no model", "cannot read"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, path: Path) -> None:
    path.write_bytes(content())
    with pytest.raises(FileError, match=message):
        read(path)


def test_masks_are_no_model(path: Path) -> None:
    Masks({"x": torch.ones(2, dtype=torch.bool)}).save(path)
    with pytest.raises(FileError, match=r"use Masks\.load"):
        read(path)


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileError, match="cannot read"):
            read(path)
    with pytest.raises(FileError, match="cannot write"):
        save(network(), tmp_path / "no" / "folder")
