"""Files: JSON read within bounds, and what a killed process leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from secateur import files
from secateur.errors import FileError
from secateur.files import parse_json, read_json

DEEP = "[" * 100_000 + "]" * 100_000
BAD = {
    "deep": DEEP,
    "deep enough to parse": "[" * 300 + "]" * 300,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "NaN": '{"a": NaN}',
    "infinite": '{"a": -Infinity}',
    "overflows to infinity": '{"a": 1e999}',
    "a huge number": f'{{"a": {"9" * 400}}}',
    "digits that Python refuses": f'{{"a": {"9" * 5000}}}',
    "the same name twice": '{"a": 1, "b": 2, "a": 3}',
    "half a character": '{"a": "\\ud800"}',
    "half a character in a name": '{"\\uDC00": 1}',
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "empty": "",
    "truncated": '{"a": [1, 2',
    "two values": "{} {}",
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_json_that_could_harm_a_reader_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [*BAD.values(), "[1]", '"text"', "3", "null"], ids=[*BAD, *"1234"])
def test_a_file_of_such_json_or_of_no_object_is_refused(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"."):
        read_json(path)


def test_a_name_twice_is_named_and_cannot_write_to_a_terminal() -> None:
    with pytest.raises(ValueError, match=r"'\\x1b\[2Ja' twice"):
        parse_json('{"\\u001b[2Ja": 1, "\\u001b[2Ja": 2}')


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole of a terabyte
    with pytest.raises(ValueError, match="more than 33,554,432 bytes"):
        read_json(path)
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_json(path, largest=4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "y.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**290), 10**290) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(VALUES)
def test_all_other_json_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


class Port(msgspec.Struct):
    name: str
    shape: tuple[files.Size, ...]


class Facts(msgspec.Struct):
    ports: list[Port]
    digest: str
    note: str = ""


FACTS = Facts([Port("x", (2, 3))], "abc")


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([{"shape": []}], r"ports\[0\]: .*name"),
        ([{"name": 3, "shape": []}], r"ports\[0\]\.name: .*str.*int"),
        ([{"name": "x", "shape": [1, -2]}], r"ports\[0\]\.shape\[1\]: .*>= 0"),
        ([{"name": "x", "shape": [2**63]}], r"ports\[0\]\.shape\[0\]: "),
        ([{"name": "x", "shape": [True]}], r"shape\[0\]: .*int.*bool"),
        ({}, "ports: .*array.*object"),
        (None, "ports: .*array.*null"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_its_place(ports: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.validated({"ports": ports, "digest": "abc"}, Facts)
    with pytest.raises(ValueError, match=r"`object`, got `array`"):
        files.validated([], Facts)


def saved(path: Path, **change: str) -> None:
    metadata = files.metadata_of(files.MASKS, FACTS) | change
    files.write(path, files.content_of({"a": np.arange(4, dtype=np.uint8)}, metadata))


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    saved(path, more="of a later secateur")
    with files.open_tensors(path, files.MASKS) as tensors:
        assert tensors.facts(Facts) == FACTS
        assert tensors.kinds() == {"a": ("U8", [4])}
        assert [(name, array.tolist()) for name, array in tensors.items()] == [("a", [0, 1, 2, 3])]
    assert files.format_of(path) == files.MASKS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ports": "[{}]"}, r"ports\[0\]: .*name"),
        ({"ports": "[1, 1"}, "truncated"),
        ({"ports": '[{"name": "x", "name": "y"}]'}, "'name' twice"),
        ({"format": files.MODEL}, f"'{files.MODEL}', not '{files.MASKS}'; .*secateur.load"),
        ({"format": files.STAGE}, f"'{files.STAGE}', not '{files.MASKS}'; .*callback"),
        ({"format": "pt"}, "'pt', not .*; .*load_file"),
        ({"format": "\x1b[2J" * 1000}, "later secateur"),
    ],
)
def test_facts_of_a_bad_file_are_one_error(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    saved(path, **change)
    with (
        pytest.raises(FileError, match=rf"^cannot read .*x\.safetensors: .*{message}") as caught,
        files.open_tensors(path, files.MASKS) as tensors,
    ):
        tensors.facts(Facts)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ValueError("x" * 5000),
        RecursionError(),
        MemoryError(),
        ZeroDivisionError(),
        KeyError("a"),
        RuntimeError("torch"),
        SafetensorError("header"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_bad_file_raises_is_one_error(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(FileError, match=r"^cannot read .*/x: .+; give another$") as caught,
        files.refusing(tmp_path / "x", "give another"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert len(str(caught.value)) < 500


def test_an_error_that_says_more_is_left_as_it_is() -> None:
    with pytest.raises(FileError, match=r"^more$"), files.refusing(Path("x"), "give another"):
        raise FileError("more")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "nothing"):
        path = tmp_path / name
        with (
            pytest.raises(FileError, match=rf"^cannot read {re.escape(str(path))}: .+; "),
            files.open_tensors(path),
        ):
            pass


KILLED = """
import os, signal, sys
from pathlib import Path
from secateur import files

os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
files.write(Path(sys.argv[1]), b"half of it")
"""


@pytest.mark.parametrize("name", ["model.safetensors", "x" * 255])
def test_a_killed_write_leaves_what_the_next_one_removes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    (left,) = set(tmp_path.iterdir()) - {path}
    files.write(path, b"meanwhile")
    assert left.exists()  # another process could still be writing it
    old = time.time() - files.ABANDONED
    os.utime(left, (old, old))
    files.write(tmp_path / "another", b"")
    assert left.exists()
    files.write(path, b"after")
    assert {p.name for p in tmp_path.iterdir()} == {name, "another"}
    assert path.read_bytes() == b"after"


def test_only_our_own_temporary_files_are_removed(tmp_path: Path) -> None:
    theirs = [
        "a.json",
        ".a.json",
        ".a.json.original",  # eight letters, as ours have, but not our ending
        ".a.json.tmp",
        ".a.json.abcd.secateur-tmp",
        ".b.json.abcdefgh.secateur-tmp",
        "a.json.abcdefgh.secateur-tmp",
    ]
    for name in theirs:
        (tmp_path / name).write_text("theirs")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".a.json.folderxy.secateur-tmp").mkdir()
    ours = tmp_path / ".a.json.abcdefg_.secateur-tmp"
    ours.write_text("ours")
    os.utime(ours, (0, 0))
    files.sweep(tmp_path, "a.json")
    assert not ours.exists()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == set(theirs)
    assert (tmp_path / ".a.json.folderxy.secateur-tmp").is_dir()
    files.sweep(tmp_path / "missing")
