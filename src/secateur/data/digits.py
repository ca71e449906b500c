"""The UCI handwritten digits (Alpaydin & Kaynak 1998), as scikit-learn gives them: no download.

1,797 grey images of 8x8 pixels in 10 classes, inside the package. Their origin and licence stand
beside them in digits.LICENSE.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from secateur.data.images import Augmentation, ImageData, Split, hold_out
from secateur.errors import DataError, UsageError

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
MEAN = (0.30536862,)
"""Mean of the training and validation images, scaled to [0, 1]."""
STD = (0.37529281,)
"""Standard deviation, likewise."""
AUGMENTATION = Augmentation(pad=1, fill="black")
"""The default: shifts by up to 1 pixel; the edge of a digit is empty, and none is mirrored."""

_FILE = Path(__file__).with_name("digits.npz")


def load(data_dir: Path | None = None, progress: bool = True) -> ImageData:
    """Return the digits, on the CPU, with their 17 grey levels spread over 0..255.

    The test split is the last fifth of each class in file order, the validation split the last
    tenth of each class of the rest: mostly the hands of other people than those trained on.
    `progress` has no effect. Raises UsageError when `data_dir` is given (there is nothing to
    read elsewhere), DataError when the file of the package is damaged.
    """
    if data_dir is not None:
        raise UsageError(f"digits comes with secateur; leave the data directory ({data_dir}) out")
    try:
        with np.load(io.BytesIO(_FILE.read_bytes()), allow_pickle=False) as file:
            levels, labels = file["images"].astype(np.uint16), file["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{_FILE} is damaged ({error}); install secateur again") from error
    pixels = ((levels * 255 + 8) // 16).astype(np.uint8)
    everything = Split(torch.from_numpy(pixels)[..., None], torch.from_numpy(labels))
    tested = hold_out(everything.labels, part=5)
    pool = everything.take(~tested)
    held = hold_out(pool.labels, part=10)
    return ImageData(
        name="digits",
        train=pool.take(~held),
        validation=pool.take(held),
        test=everything.take(tested),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        augmentation=AUGMENTATION,
    )
