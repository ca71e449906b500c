import hashlib
import logging
import pickle
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch

import fake_cifar10 as fake
from secateur.data import cifar10
from secateur.errors import DataError

FORMS = {
    "binary": fake.binary_files,
    "pickled": fake.pickled_files,
    "sheets": fake.sheet_files,
}


def loaded(path):
    return cifar10.load(path, progress=False, origin=fake.origin())


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    return loaded(fake.write(tmp_path_factory.mktemp("data"), fake.binary_files())).fingerprint


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["folder", "above", "archive"])
def test_every_form_in_every_place_gives_the_same_data(tmp_path, expected, form, place):
    files = FORMS[form]()
    if place == "archive":
        path = tmp_path / "any-name.tar.gz"
        path.write_bytes(fake.archive(files))
        assert loaded(path).fingerprint == expected
        return
    name = "cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py"
    folder = fake.write(tmp_path / name, files)
    assert loaded(folder if place == "folder" else tmp_path).fingerprint == expected


def test_an_archive_in_the_folder_is_found(tmp_path, expected):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(fake.archive(fake.pickled_files()))
    assert loaded(tmp_path).fingerprint == expected


def test_pixels_and_labels_arrive_where_they_belong(tmp_path):
    data = loaded(fake.write(tmp_path, fake.binary_files()))
    labels, images = fake.parts("test_batch")
    assert data.test.labels.tolist() == labels.tolist()
    for channel in range(3):
        plane = images[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
        assert np.array_equal(data.test.images[..., channel].numpy(), plane)
    assert data.shape == (3, 32, 32)
    assert data.name == "cifar10"


def test_validation_is_the_last_tenth_of_each_class_and_disjoint_from_training(tmp_path):
    data = loaded(fake.write(tmp_path, fake.binary_files()))
    assert data.train.labels.bincount().tolist() == [9] * 10
    assert data.validation.labels.bincount().tolist() == [1] * 10
    assert data.test.labels.bincount().tolist() == [2] * 10
    records = [record for name in fake.NAMES[:5] for record in zip(*fake.parts(name), strict=True)]
    for label, image in zip(data.validation.labels, data.validation.images, strict=True):
        last = [pixels for other, pixels in records if other == label][-1]
        assert np.array_equal(image.permute(2, 0, 1).flatten().numpy(), last)
    training = {image.numpy().tobytes() for image in data.train.images}
    held = {image.numpy().tobytes() for image in data.validation.images}
    assert len(training) == 90
    assert not training & held


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_batch_is_named(tmp_path, form):
    files = FORMS[form]()
    lost = next(name for name in files if name.startswith("data_batch_3"))
    del files[lost]
    with pytest.raises(DataError, match=rf"{lost}: missing in .*{tmp_path.name}"):
        loaded(fake.write(tmp_path, files))


def test_a_truncated_batch_is_named(tmp_path):
    files = fake.binary_files()
    files["data_batch_2.bin"] = files["data_batch_2.bin"][:-1]
    with pytest.raises(
        DataError, match=r"data_batch_2\.bin in .* is truncated: .*61,459 of 61,460"
    ):
        loaded(fake.write(tmp_path, files))
    files["data_batch_2.bin"] += b"ab"
    with pytest.raises(DataError, match=r"data_batch_2\.bin in .* is too long"):
        loaded(fake.write(tmp_path, files))


@pytest.mark.parametrize("form", ["binary", "pickled"])
def test_one_wrong_byte_is_noticed(tmp_path, form):
    files = FORMS[form]()
    name = next(name for name in files if name.startswith("test_batch"))
    middle = len(files[name]) // 2
    # The middle of a pickled batch is text, so that this stays a right pickle.
    wrong = bytes([files[name][middle] ^ 1])
    files[name] = files[name][:middle] + wrong + files[name][middle + 1 :]
    with pytest.raises(DataError, match=rf"{name} in .* is (corrupt|not a batch)"):
        loaded(fake.write(tmp_path, files))


@pytest.mark.parametrize("form", ["pickled", "sheets"])
@pytest.mark.parametrize("keep", [0, 1, 100, 30_000])
def test_the_front_of_a_batch_in_another_form_is_refused(tmp_path, form, keep):
    files = FORMS[form]()
    name = next(name for name in files if name.startswith("data_batch_1"))
    files[name] = files[name][:keep]
    with pytest.raises(DataError, match=rf"{name} in .* is not a "):
        loaded(fake.write(tmp_path, files))


def test_a_truncated_archive_is_refused(tmp_path):
    whole = fake.archive(fake.pickled_files())
    path = tmp_path / "cifar-10-python.tar.gz"
    for size in (0, 10, 1000, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
            loaded(path)


def test_a_member_that_is_no_file_or_too_large_is_refused(tmp_path):
    path = tmp_path / "hostile.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="holds no batch"):
        loaded(path)
    header = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    header.size = 1 << 40
    path.write_bytes(zlib.compress(header.tobuf() + bytes(10240), wbits=31))
    with pytest.raises(DataError, match=r"data_batch_1 in .* not of CIFAR-10"):
        loaded(path)


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_place_without_data_says_what_was_looked_for(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data_batch_1\.bin .* cifar-10-batches-py.* --data-dir"):
        loaded(tmp_path / place)


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    "content",
    [
        Hostile(open, "opened", "w"),
        Hostile(eval, "open('opened', 'w')"),
        {b"data": Hostile(np.load, "opened"), b"labels": [1]},
        {b"data": np.zeros((1, 3072), object), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [300]},
        {b"data": b"no array", b"labels": [1]},
        {b"labels": [1]},
        [1, 2],
    ],
    ids=["open", "eval", "array", "objects", "label", "bytes", "no data", "list"],
)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    files = fake.pickled_files()
    files["data_batch_4"] = pickle.dumps(content, protocol=2)
    folder = fake.write(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=r"data_batch_4 in .* is not a batch"):
        loaded(folder)
    assert not (tmp_path / "opened").exists()


def test_a_sheet_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    for content in (huge, b"GIF89a", fake.sheet_files()["test_batch.png"][:60]):
        files = fake.sheet_files() | {"data_batch_5.png": content}
        with pytest.raises(DataError, match=r"data_batch_5\.png in .* is not a sheet of 20 images"):
            loaded(fake.write(tmp_path, files))


def test_sheets_without_right_labels_are_refused(tmp_path):
    for labels in (b"", b"{}", b"[1, 2, 3]", b"[300]", b'["a"]'):
        files = fake.sheet_files() | {"test_lables.json": labels}
        with pytest.raises(DataError, match=r"test_batch\.png in .* is not a sheet"):
            loaded(fake.write(tmp_path, files))
    (tmp_path / "test_lables.json").unlink()
    with pytest.raises(DataError, match=r"test_lables\.json' is missing"):
        loaded(tmp_path)


def test_the_cache_is_used_without_asking_any_source(tmp_path, monkeypatch, expected):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    fake.write(tmp_path / "cifar10", fake.binary_files())
    assert loaded(None).fingerprint == expected


def test_a_corrupt_cache_is_named_and_where_no_source_answers_nothing_is_lost(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    files = fake.binary_files() | {"data_batch_3.bin": b"short"}
    folder = fake.write(tmp_path / "cifar10", files)
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="any source"):
        loaded(None)
    assert "data_batch_3.bin is truncated" in caplog.text
    assert (folder / "data_batch_1.bin").read_bytes() == files["data_batch_1.bin"]


@pytest.mark.network
def test_the_real_thing():
    try:
        data = cifar10.load(progress=False)
    except DataError as error:
        if "from any source" not in str(error):
            raise
        pytest.skip(f"no source answers: {error}")
    assert data.train.images.shape == (45_000, 32, 32, 3)
    assert data.train.labels.bincount().tolist() == [4500] * 10
    assert data.validation.labels.bincount().tolist() == [500] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    pool = torch.cat([data.train.images, data.validation.images]).flatten(0, 2).double() / 255
    assert data.mean == pytest.approx(pool.mean(0).tolist(), abs=1e-6)
    assert data.std == pytest.approx(pool.std(0, correction=0).tolist(), abs=1e-6)
    planes = data.test.images.permute(0, 3, 1, 2).flatten(1)
    records = torch.cat([data.test.labels[:, None].to(torch.uint8), planes], dim=1)
    digest = hashlib.sha256(records.numpy().tobytes()).hexdigest()
    assert digest == cifar10.ORIGIN.sha256["test_batch"]
