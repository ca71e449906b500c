"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 70,000 grey pictures of clothes, 28x28 pixels.

54,000 images train, 6,000 are the validation split and 10,000 the test split, in 10 classes. The
files are those of Debian's package `dataset-fashion-mnist`, or of the authors' repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from secateur.data.idx import read_idx
from secateur.data.images import Augmentation, ImageData, Split, hold_out
from secateur.errors import DataError

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
MEAN = (0.28604060,)
"""Mean of the official training images, scaled to [0, 1]."""
STD = (0.35302424,)
"""Standard deviation, likewise."""
AUGMENTATION = Augmentation(pad=2, fill="black", flip=True)
"""The default: shifts by up to 2 pixels, black at the edge as around every picture, and flips."""

PACKAGED = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
SIDES = (28, 28)
SHA256 = MappingProxyType(
    {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    }
)
"""The SHA-256 of each file's unpacked content, however it was compressed."""


def load(
    data_dir: Path | None = None, progress: bool = True, *, sha256: Mapping[str, str] = SHA256
) -> ImageData:
    """Return Fashion-MNIST, on the CPU, every byte of it verified.

    It is read from `data_dir`, or from where Debian's package has it: four files, plain or
    gzipped. The validation split is the last tenth of each class of the training images in file
    order (600 images a class), the test split the official one. `progress` has no effect, since
    nothing is fetched; `sha256` is for tests. Raises DataError when a file is missing, damaged or
    another.
    """
    folder = PACKAGED if data_dir is None else Path(data_dir)
    pool, test = (_split(folder, part, sha256) for part in ("train", "t10k"))
    held = hold_out(pool.labels, part=10)
    return ImageData(
        name="fashion_mnist",
        train=pool.take(~held),
        validation=pool.take(held),
        test=test,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        augmentation=AUGMENTATION,
    )


def _split(folder: Path, part: str, sha256: Mapping[str, str]) -> Split:
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    pixels = read_idx(_file(folder, images), SIDES, sha256[images])
    classes = read_idx(_file(folder, labels), (), sha256[labels])
    return Split(
        images=torch.from_numpy(pixels.copy())[..., None],
        labels=torch.from_numpy(classes.astype(np.int64)),
    )


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"{folder} has no {name}.gz: install Debian's package (apt install dataset-fashion-mnist), "
        "or take the four files from data/fashion of github.com/zalandoresearch/fashion-mnist and "
        "name their folder with --data-dir (data_dir=)"
    )
