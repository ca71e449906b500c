import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.data import digits, load
from secateur.errors import DataError, UsageError


def test_the_splits_are_stratified_disjoint_and_complete():
    data = load("digits")
    assert data.shape == (1, 8, 8)
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    assert sizes == [1302, 140, 355]
    assert sum(sizes) == 1797
    for part, share in ((data.validation, 0.078), (data.test, 0.1975)):
        counts = part.labels.bincount() / (
            data.train.labels.bincount()
            + data.validation.labels.bincount()
            + data.test.labels.bincount()
        )
        assert counts.shape == (10,)
        assert (counts - share).abs().max() < 0.006
    whole = torch.cat([data.train.images, data.validation.images, data.test.images])
    assert len({image.numpy().tobytes() for image in whole}) == len(
        {image.tobytes() for image in stored()[0]}
    )


def stored() -> tuple[np.ndarray, np.ndarray]:
    path = Path(digits.__file__).with_name("digits.npz")
    with np.load(path, allow_pickle=False) as file:
        return file["images"], file["labels"]


def test_the_package_holds_the_digits_of_scikit_learn():
    images, labels = stored()
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    licence = Path(digits.__file__).with_name("digits.LICENSE").read_text()
    assert "CC BY 4.0" in licence
    assert "BSD 3-Clause" in licence


def test_grey_levels_are_spread_evenly_and_the_constants_are_those_of_the_training_images():
    data = digits.load()
    images = torch.cat([data.train.images, data.validation.images])
    levels = torch.arange(17) * 255 / 16
    assert images.unique().tolist() == (levels + 0.5).floor().tolist()
    scaled = images.double() / 255
    assert data.mean == pytest.approx([scaled.mean().item()], abs=1e-8)
    assert data.std == pytest.approx([scaled.std(correction=0).item()], abs=1e-8)


def test_loading_twice_gives_the_same_and_needs_no_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert load("digits").fingerprint == load("digits").fingerprint


def test_a_data_directory_is_refused(tmp_path):
    with pytest.raises(UsageError, match="comes with secateur"):
        load("digits", data_dir=tmp_path)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None])
def test_a_damaged_file_of_the_package_is_named(tmp_path, monkeypatch, damage):
    path = tmp_path / "digits.npz"
    whole = Path(digits.__file__).with_name("digits.npz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    monkeypatch.setattr(digits, "_FILE", path)
    with pytest.raises(DataError, match=r"digits\.npz is damaged .*install secateur again"):
        digits.load()
