"""Small files that say they are large: refused in little memory, whatever form of CIFAR-10."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import fake_cifar10 as fake
from peak_memory import PEAK, needs_peak
from secateur.data import cifar10, pickled
from secateur.data.archive import read_archive
from secateur.errors import DataError

pytestmark = needs_peak

MEASURED = f"""{PEAK}
import sys
from pathlib import Path
from secateur.data import cifar10_forms as forms
from secateur.data.archive import read_archive
from secateur.errors import DataError

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    said = "nothing"
    try:
        if path.suffix == ".gz":
            read_archive(path, frozenset(["data_batch_1"]))
        else:
            forms.decode(dict(data_batch_1=path.read_bytes()), dict(data_batch_1="0"), 20, "here")
    except DataError as error:
        said = "a short error" if len(str(error)) < 2000 else "a long error"
    print(path.name, said, peak() - before >> 10, sep="|")
"""


def refused(folder: Path) -> dict[str, tuple[str, int]]:
    """Return file → what reading it ended in, and the most memory so far, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    lines = [line.split("|") for line in done.stdout.splitlines()]
    return {name: (said, int(taken)) for name, said, taken in lines}


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def nested(depth: int, fan: int) -> bytes:
    """A list of a list of ..., each many times the one before: fan ** depth numbers in all."""
    inner = b"K\x01"
    made = b"]" + b"(" + inner * fan + b"e" + b"q\x00"
    for level in range(1, depth):
        made += b"]" + b"(" + (b"h" + bytes([level - 1])) * fan + b"e" + b"q" + bytes([level])
    return made


TEXT = b"X" + number(1 << 22, 4) + b"a" * (1 << 22)
ENCODE = b"c_codecs\nencode\n"
PICKLES = {
    "a memo of gigabytes": b"}r" + number(0x0C000000, 4) + b".",
    "a text of exabytes": b"\x8d" + number(1 << 60, 8) + b"a.",
    "bytes of exabytes": b"\x8e" + number(1 << 60, 8) + b"a.",
    "bytes of gigabytes": b"B" + number((1 << 32) - 1, 4) + b"a.",
    "a bytearray": b"\x96" + number(1 << 33, 8) + b"a.",
    "a frame of exabytes": b"\x95" + number(1 << 62, 8) + b"}.",
    "a number of gigabytes": b"\x8b" + number((1 << 31) - 1, 4) + b"\1.",
    "lists beyond count": b"]" * 20_000_000 + b".",
    "lists in lists": b"}(C\x06labels" + nested(7, 100) + b"C\x04datah\x00u.",
    "one text encoded again and again": TEXT + b"q\x00" + (
        ENCODE + b"h\x00X" + number(6, 4) + b"latin1\x86R") * 200 + b".",
    "doubled": b"](K\x01e" + b"2\x86" * 60 + b".",
    "extension": b"\x82\x01.",
    "persistent": b"K\x01Q.",
    "a class": b"cbuiltins\nbytearray\nK\x05\x85R.",
    "nothing": b".",
    "more than there is": b"\x87.",
    "beyond a mark": b"K\x01(\x85.",
    "an endless name": b"c" + b"a" * 1000 + b"\n" + b"b" * 1000 + b"\n.",
    "a list as a name": b"}]K\x01s.",
    "a dict that holds itself": b"}q\x00C\x04datah\x00s.",
}  # fmt: skip


def test_a_pickle_takes_no_more_memory_than_its_size(tmp_path: Path) -> None:
    for name, content in PICKLES.items():
        (tmp_path / name).write_bytes(b"\x80\x04" + content)
    found = refused(tmp_path)
    assert set(found) == set(PICKLES)
    assert {said for said, _ in found.values()} == {"a short error"}, found
    assert max(taken for _, taken in found.values()) < 150, found


@functools.cache
def compressed(block: bytes) -> bytes:
    return gzip.compress(block, mtime=0)


def archive(path: Path, *blocks: bytes) -> Path:
    """Each block is a member of its own of the gzip file, so that many zeros are made quickly."""
    path.write_bytes(b"".join(map(compressed, blocks)))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(format=tarfile.GNU_FORMAT)


ZEROS = [bytes(1 << 24)] * 64
ARCHIVES = {
    "a name of gigabytes": [header("././@LongLink", 1 << 31, tarfile.GNUTYPE_LONGNAME), *ZEROS],
    "records of gigabytes": [header("x", 1 << 31, tarfile.XHDTYPE), *ZEROS],
    "a batch of terabytes": [header("data_batch_1", 1 << 40), *ZEROS],
    "another file of terabytes": [header("other", 1 << 40), *ZEROS],
    "members beyond count": [header("a", 0) * 100_000],
    "holes beyond count": [
        header("data_batch_1", 0, tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29),
        *[(b"0" * 504 + b"\1" + bytes(7)) * 100_000],
    ],
}


def test_an_archive_takes_no_more_memory_than_its_batches(tmp_path: Path) -> None:
    for name, blocks in ARCHIVES.items():
        path = archive(tmp_path / f"{name}.tar.gz", *blocks)
        assert path.stat().st_size < 2 << 20
    found = refused(tmp_path)
    assert len(found) == len(ARCHIVES)
    assert {said for said, _ in found.values()} == {"a short error"}, found
    assert max(taken for _, taken in found.values()) < 150, found


def test_an_archive_of_more_than_a_gigabyte_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.data.archive._MOST", 1 << 20)
    content = b"".join(header(f"{i}", 400_000) + bytes(400_384) for i in range(3))
    path = archive(tmp_path / "a.tar.gz", content, bytes(1024))
    with pytest.raises(DataError, match="more than 1,048,576 bytes"):
        read_archive(path, frozenset(["data_batch_1"]))


def test_an_archive_of_zeros_holds_no_batch(tmp_path: Path) -> None:
    path = archive(tmp_path / "zeros.tar.gz", *ZEROS[:4])
    with pytest.raises(DataError, match="holds no batch"):
        cifar10.load(path, progress=False, origin=fake.origin())


def test_what_an_archive_names_elsewhere_is_neither_followed_nor_written(tmp_path: Path) -> None:
    path, secret = tmp_path / "a.tar.gz", tmp_path / "secret"
    secret.write_text("x")
    with tarfile.open(path, "w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("cifar/data_batch_1")
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
        for name in ("../../data_batch_2", "/etc/data_batch_3"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"y"))
    wanted = frozenset(f"data_batch_{i}" for i in (1, 2, 3))
    assert read_archive(path, wanted) == {"data_batch_2": b"y", "data_batch_3": b"y"}
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar.gz", "secret"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_usual_format_are_read(form: int, tmp_path: Path) -> None:
    files = {"data_batch_1": b"a" * 1000, "test_batch": b"", "data_batch_2": b"b" * 512}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=form) as tar:
        if form != tarfile.USTAR_FORMAT:
            tar.addfile(tarfile.TarInfo("folder/" + "long" * 30))
        for name, content in files.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size, info.mtime = len(content), 1.5  # a fraction has a record of its own in pax
            tar.addfile(info, io.BytesIO(content))
    assert read_archive(tmp_path / "a.tar.gz", frozenset(files)) == files


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    good = header("data_batch_1", 3) + b"abc" + bytes(509 + 1024)
    for content in (good[:100], b"X" + good[1:], good[:600], b"PK\3\4" + bytes(600)):
        path = archive(tmp_path / "a.tar.gz", content)
        with pytest.raises(DataError, match="not a whole"):
            read_archive(path, frozenset(["data_batch_1"]))


def test_deep_labels_are_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000 + "]" * 100_000, f"[{'9' * 5000}]", "[[1], [2]]", "[1.5]", "[NaN]"):
        files = fake.sheet_files() | {"train_lables.json": text.encode()}
        with pytest.raises(DataError, match=r"data_batch_1\.png in .* is not a sheet"):
            cifar10.load(fake.write(tmp_path, files), progress=False, origin=fake.origin())


def test_a_file_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "data_batch_1.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="not of CIFAR-10"):
        cifar10.load(tmp_path, progress=False, origin=fake.origin())


def python2(name: str) -> bytes:
    """A batch as Python 2 pickled the official ones: byte strings, long memos, file names."""
    labels, images = fake.parts(name)
    memo = iter(range(10**6))

    def put() -> bytes:
        at = next(memo)
        return b"q" + bytes([at]) if at < 256 else b"r" + struct.pack("<I", at)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value + put()

    made = b"\x80\x02}" + put() + b"(" + text(b"batch_label") + text(b"training batch 1 of 5")
    made += text(b"labels") + b"]" + put()
    made += b"(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    made += text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\n" + put()
    made += b"cnumpy\nndarray\n" + put() + b"K\0\x85U\x01b\x87R" + put()
    made += b"(K\x01" + b"M" + struct.pack("<H", len(labels)) + b"M\x00\x0c\x86"
    made += b"cnumpy\ndtype\n" + put() + b"U\x02u1K\0K\x01\x87R" + put()
    made += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89"
    made += b"T" + struct.pack("<I", images.size) + images.tobytes() + b"tb"
    made += text(b"filenames") + b"]" + put() + b"("
    made += b"".join(text(f"picture_s_{i:06d}.png".encode()) for i in range(300)) + b"e"
    return made + b"u."


def test_batches_as_python_2_pickled_them_are_read(tmp_path: Path) -> None:
    files = {name: python2(name) for name in fake.NAMES}
    assert pickle.loads(files["test_batch"], encoding="bytes")[b"labels"]  # it is right indeed
    loaded = cifar10.load(fake.write(tmp_path / "a", files), progress=False, origin=fake.origin())
    wanted = cifar10.load(
        fake.write(tmp_path / "b", fake.binary_files()), progress=False, origin=fake.origin()
    )
    assert loaded.fingerprint == wanted.fingerprint


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_of_plain_values_is_read_as_it_was_written(protocol: int) -> None:
    value = {b"a": [1, 2, [], {}], "ä": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
             b"b": [None, True, False, -1, 2**31, 2**40, -(2**40), b"x" * 300, "y" * 300],
             "same": [b"z"] * 3}  # fmt: skip
    assert pickled.unpickled(pickle.dumps(value, protocol=protocol), most=1000) == value
    with pytest.raises(ValueError, match="more than 10 instructions"):
        pickled.unpickled(pickle.dumps(value, protocol=protocol), most=10)


def test_no_batch_has_as_many_instructions_as_are_refused() -> None:
    """The official batches have 10,000 labels and 10,000 file names, each kept in the memo."""
    content = pickle.dumps(
        {b"labels": list(range(256)) * 39, b"names": [f"{i}.png" for i in range(10_000)]}, 2
    )
    assert pickled.unpickled(content, most=1_000 + 16 * 10_000)[b"labels"][255] == 255
