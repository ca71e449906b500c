"""Samples that int8 peers are quantised on: given ones, or random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur import files
from secateur.bench import inputs
from secateur.bench.inputs import Array, Input
from secateur.errors import UsageError

SAMPLES = 64
"""How many random ones, where none are given."""

BATCH = 32
"""Samples that a model is given at once, where its batch is not fixed."""

Samples = Array | Mapping[str, Array]
"""Samples of a network's only input, or input → samples; the first axis counts them."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Samples for every input of a network."""

    feeds: Mapping[str, Array]
    batch: int
    """How many at once."""
    random: bool

    @property
    def count(self) -> int:
        """How many samples."""
        return max(len(array) for array in self.feeds.values() if array.ndim)

    def note(self, peers: Sequence[str]) -> str:
        """Return what is to be known of networks that were quantised on these samples."""
        who = " and ".join(peers)
        if not self.random:
            return f"{who}: calibrated on {self.count} given samples."
        return (
            f"{who}: calibrated on {self.count} random samples, so speed is meaningful and outputs "
            "are not; give real samples with --calibration."
        )


def of(network: Sequence[Input], samples: Samples | None) -> Calibration:
    """Return samples to calibrate a network on; random ones, always the same, where none are given.

    Raises:
        UsageError: as `matching`.
    """
    fixed = next((i.shape[0] for i in network if i.shape and isinstance(i.shape[0], int)), None)
    if samples is None:
        assert not isinstance(fixed, str)
        return Calibration(inputs.draw(network, fixed or SAMPLES), int(fixed or BATCH), True)
    feeds = matching(network, samples, "calibration")
    return Calibration(feeds, int(fixed or BATCH), False)


def read(path: Path) -> Samples:
    """Return what a .npy file (the only input's samples) or .npz file (names as inputs) holds.

    Raises:
        FileError: it is missing, or holds anything but arrays of numbers.
    """
    return files.read_arrays(path, "samples")


def matching(network: Sequence[Input], samples: Samples, what: str) -> dict[str, Array]:
    """Return samples in the order and the dtypes of a network's inputs.

    Args:
        network: its inputs.
        samples: for each of them.
        what: they are, for messages.

    Raises:
        UsageError: other names, shapes or kinds of numbers; different counts; NaN or infinity.
    """
    names = [given.name for given in network]
    if not isinstance(samples, Mapping):
        if len(names) != 1:
            raise UsageError(
                f"{what} is one array, but the network has the inputs {', '.join(names)}; give one "
                "for each by name"
            )
        samples = {names[0]: samples}
    if set(samples) != set(names):
        raise UsageError(
            f"{what} has the names {', '.join(map(str, samples)) or 'of nothing'}, but the "
            f"network's inputs are {', '.join(names)}; use exactly these"
        )
    feeds = {given.name: _fitting(given, samples[given.name], what) for given in network}
    counts = {len(array) for array in feeds.values() if array.ndim}
    if len(counts) != 1 or not min(counts):
        raise UsageError(
            f"{what} needs as many samples of each input, at least one, got {sorted(counts)}"
        )
    return feeds


def _fitting(given: Input, array: object, what: str) -> Array:
    found = np.asarray(array)
    rest = tuple(given.shape[1:])
    if found.ndim != len(given.shape) or found.shape[1:] != rest:
        wanted = ", ".join(map(str, ("N", *rest) if given.shape else ()))
        raise UsageError(
            f"{what} of input {given.name!r} has shape {found.shape}, but ({wanted}) is needed"
        )
    if not np.can_cast(found.dtype, given.dtype, "same_kind"):
        raise UsageError(
            f"{what} of input {given.name!r} has dtype {found.dtype}, but {given.dtype} is needed; "
            "convert it first"
        )
    found = found.astype(given.dtype, copy=False)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise UsageError(f"{what} of input {given.name!r} has NaN or infinity; take them out")
    return found
