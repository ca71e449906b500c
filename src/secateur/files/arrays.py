"""Files of arrays, as numpy writes them: .npy and .npz, of numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import FileError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def read_arrays(path: Path, what: str) -> Array | dict[str, Array]:
    """Return what a .npy file (one array) or an .npz file (arrays by name) holds.

    Args:
        path: of the file.
        what: it should be, for messages, such as "calibration data".

    Raises:
        FileError: it is missing, damaged, or holds anything but arrays of numbers.
    """
    import numpy as np  # the help of commands does without

    try:
        with path.open("rb") as file:  # numpy leaves a damaged one open
            found: Any = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else dict(found)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}; give a .npy or .npz file of {what}") from None
    except Exception as error:  # whatever zipfile and numpy raise on damage
        raise FileError(
            f"cannot read {path}: {error}; give a .npy file, or an .npz file with a name for each "
            "input, of numbers"
        ) from None
