"""Every reader of JSON in a model, a folder or an engine: what cannot be used is one error."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import secateur
from secateur import files
from secateur.compiler import artifact, bundle
from secateur.errors import FileError, SecateurError, UsageError
from secateur.pruning.files import stage_file
from secateur.pruning.files.hub import from_pretrained, save_pretrained
from secateur.pruning.selecting.masks import Masks
from secateur.terminal.inspection import inspection

TEXTS = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"tensors":' * 50_000 + "1" + "}" * 50_000,
    "a number of 5,000 digits": '{"tensors": ' + "9" * 5000 + "}",
    "a number of 400 digits": '{"a": ' + "9" * 400 + "}",
    "NaN": '{"tensors": [NaN]}',
    "infinite": '{"tensors": 1e999}',
    "twice": '{"a": 1, "a": 2}',
    "half a character": '{"a": "\\ud800"}',
    "a list": "[1]",
    "a text": '"abc"',
    "null": "null",
    "nothing": "",
}
WEIGHT = {"weight": torch.zeros(2, dtype=torch.uint8)}


def tensors(format_name: str, field: str, text: str) -> bytes:
    facts = {"format": format_name, field: text, "sha256": "0" * 64, "digest": "0"}
    return safetensors.torch.save(WEIGHT, facts)


READERS: dict[str, tuple[Callable[[str], bytes], Callable[[Path], object]]] = {
    "model": (lambda text: tensors(files.MODEL, "description", text), secateur.read),
    "model, looked at": (lambda text: tensors(files.MODEL, "description", text), inspection),
    "masks": (lambda text: tensors(files.MASKS, "shapes", text), Masks.load),
    "stage": (lambda text: tensors(files.STAGE, "state", text), stage_file.read),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("reader", READERS)
def test_in_a_file_of_tensors(reader: str, text: str, tmp_path: Path) -> None:
    make, read = READERS[reader]
    path = tmp_path / "x.safetensors"
    path.write_bytes(make(text))
    with pytest.raises(FileError, match=r"^cannot read .*x\.safetensors: .+; .+") as caught:
        read(path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [1 << 60, (1 << 64) - 1, 1 << 31, 200 << 20, 0])
@pytest.mark.parametrize("read", [*(read for _, read in READERS.values()), from_pretrained])
def test_a_header_that_says_it_is_huge(
    read: Callable[[Path], object], length: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(FileError, match=r"^cannot read .*model\.safetensors: .+; .+"):
        read(tmp_path if read is from_pretrained else path)


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 60]},
    {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
])  # fmt: skip
@pytest.mark.parametrize("format_name", [files.MODEL, files.MASKS, files.STAGE])
def test_a_tensor_that_says_it_is_huge(format_name: str, entry: Any, tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": format_name}, "a": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    for _, read in READERS.values():
        with pytest.raises(FileError, match=r"^cannot read .*x\.safetensors: .+; .+"):
            read(path)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_in_a_hub_folder(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=name.replace(".", r"\.")):
        from_pretrained(tmp_path, nn.Linear(2, 2))
    if name == "config.json":  # what a user has there is not lost
        with pytest.raises(FileError, match=r"config\.json"):
            save_pretrained(nn.Linear(2, 2), tmp_path)
        assert (tmp_path / name).read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("section", [3, [], "x", {"files": 5}, {"files": [1]}, {"files": {"": 1}}])
def test_a_section_of_the_wrong_kind_in_a_hub_folder(section: object, tmp_path: Path) -> None:
    save_pretrained(nn.Linear(2, 2), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"secateur": section}))
    if section:
        with pytest.raises(FileError):
            from_pretrained(tmp_path, nn.Linear(2, 2))
    save_pretrained(nn.Linear(2, 2), tmp_path)
    from_pretrained(tmp_path, nn.Linear(2, 2))


def engine(text: str) -> bytes:
    tail = struct.pack("<QQ", 0, len(text))
    body = text.encode()
    return body + tail + sha256(body + tail).digest() + artifact.MAGIC


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_in_an_engine(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    path.write_bytes(engine(text))
    with pytest.raises(FileError, match=r"cannot read .*net\.so: .*; "):
        secateur.Engine.load(path)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_in_a_folder_of_c(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / bundle.MANIFEST).write_text(text)
    with pytest.raises(UsageError, match=r"holds bundle\.json"):
        bundle.refuse_others(folder)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_in_a_record_that_is_looked_at(text: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"^cannot read .*record\.json: .+; .+"):
        inspection(path)


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(500):
        deep = {"a": deep}
    for provenance in (deep, {"a": 10**400}, {"a": "\ud800"}, {1: "a", "1": "b"}):
        with pytest.raises(UsageError, match="provenance cannot be written as JSON"):
            secateur.save(nn.Linear(2, 2), tmp_path / "x.safetensors", provenance=provenance)
    assert not list(tmp_path.iterdir())


def test_a_name_given_twice_is_found_among_many() -> None:
    names = [f'"n{i}": 0' for i in range(200_000)]  # minutes, if each were counted
    assert len(files.parse_json("{" + ", ".join(names) + "}")) == len(names)
    for again in (names[0], names[-1]):
        with pytest.raises(ValueError, match=again.split('"')[1] + "' twice"):
            files.parse_json("{" + ", ".join([*names, again]) + "}")


@pytest.mark.parametrize("kind", ["hub", "bundle"])
def test_folders_that_killed_processes_left_are_removed(kind: str, tmp_path: Path) -> None:
    base, name = (tmp_path, "saving") if kind == "hub" else (tmp_path, "net")
    old, young = (base / f".{name}.{x}{files.TEMPORARY}" for x in ("abcdefgh", "ijklmnop"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "half").write_text("a model")
    early = time.time() - files.ABANDONED
    os.utime(old, (early, early))
    if kind == "hub":
        save_pretrained(nn.Linear(2, 2), tmp_path)
    else:
        bundle._replace(tmp_path / "net", {"main.c": b""})
    assert not old.exists()
    assert young.exists()  # another process could still be writing there


def test_an_answer_of_an_engines_process_that_is_no_object(tmp_path: Path) -> None:
    from secateur.bench import process

    script = tmp_path / "worker.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "SCRIPT", script)
        for text in (*TEXTS.values(), "3", "true"):
            script.write_text(
                f"import sys\nsys.stdin.readline()\nprint({text[:4000]!r}, flush=True)"
            )
            with (
                process.Process("x", Path(sys.executable), 1) as running,
                pytest.raises(SecateurError, match="x cannot load the network"),
            ):
                running.ask("load", limit=60)
