"""Labelled images held in memory as one tensor, and the passes over them.

Worker processes only slow a small data set down: the images stay uint8 on their device, and
each batch is gathered, augmented and normalised by a handful of tensor operations.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from secateur.data.augmentation import Augmentation
from secateur.errors import DataError, UsageError, whole

__all__ = ["Augmentation", "ImageData", "Split", "hold_out"]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in one order.

    `images` is uint8 [N, H, W, C], contiguous: a batch permuted to NCHW is then channels_last
    for free. `labels` is int64 [N], on the same device. Raises DataError when they are not so.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images are {self.images.dtype} {list(self.images.shape)}; "
                "give them as uint8 [N, H, W, C]"
            )
        if not self.images.is_contiguous():
            raise DataError("images are not contiguous in memory; call .contiguous() on them")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels are {self.labels.dtype} {list(self.labels.shape)}; "
                f"give them as int64 [{len(self.images)}], one for each image"
            )
        if self.labels.device != self.images.device:
            raise DataError(
                f"images are on {self.images.device} and labels on {self.labels.device}; "
                "put both on one device"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def to(self, device: torch.device | str) -> "Split":
        """Return this split on `device` (itself where it already is there)."""
        images, labels = self.images.to(device), self.labels.to(device)
        return self if images is self.images else Split(images, labels)

    def take(self, indices: Tensor) -> "Split":
        """Return the images at `indices` (int64 [M], or bool [N]), in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set of images: three splits, how pixels are normalised, how training augments.

    `mean` and `std` have one entry a channel and belong to pixels scaled to [0, 1]: a network
    sees (pixel / 255 - mean) / std. `classes` names the labels 0, 1, ... Every method that draws
    takes a CPU `torch.Generator`, so that the draws are the same whatever the data's device.
    Raises DataError where the parts do not fit one another, UsageError where the augmentation
    does not fit the images.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        for split, part in self._splits.items():
            if part.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"{self.name}: {split} images are {list(part.images.shape[1:])}, training "
                    f"images {list(self.train.images.shape[1:])}; they must be of one shape"
                )
            if part.images.device != self.train.images.device:
                raise DataError(
                    f"{self.name}: {split} images are on {part.images.device}, training images "
                    f"on {self.train.images.device}; put all on one device"
                )
            if not len(part):
                raise DataError(f"{self.name}: the {split} split holds no images")
            if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(self.classes):
                raise DataError(
                    f"{self.name}: {split} labels go from {int(part.labels.min())} to "
                    f"{int(part.labels.max())}, but there are {len(self.classes)} classes"
                )
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise DataError(
                f"{self.name}: mean {self.mean} and std {self.std} must have one entry for each "
                f"of {channels} channels, and every std must be above 0"
            )
        if self.augmentation.pad >= min(height, width):
            raise UsageError(
                f"{self.name}: augmentation pad={self.augmentation.pad} must be smaller than "
                f"the {height}x{width} images"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of contents, split, class names and normalisation.

        The same on every device. The augmentation belongs to the recipe and is left out.
        """
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for split, part in self._splits.items():
            digest.update(f"{split} {list(part.images.shape)}".encode())
            digest.update(part.labels.cpu().numpy().astype("<i8").tobytes())
            digest.update(part.images.cpu().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "ImageData":
        """Return the same data on `device` (itself where it already is there)."""
        moved = {split: part.to(device) for split, part in self._splits.items()}
        if moved == self._splits:
            return self
        return replace(
            self, train=moved["train"], validation=moved["validation"], test=moved["test"]
        )

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return the number of batches of one pass of `epoch`."""
        _check_batch_size(batch_size)
        return max(1, len(self.train) // batch_size)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Return one shuffled, augmented pass over the training images.

        Batches are (float32 [B, C, H, W] channels_last, normalised; int64 [B]). The incomplete
        last batch is dropped, unless it is the only one. The whole pass is drawn when this is
        called: what an image draws does not depend on the batch size, and a pass that is
        abandoned leaves `generator` as a finished one does. Raises UsageError for
        batch_size < 1.
        """
        used = self.batches_per_epoch(batch_size) * batch_size
        return self._training(len(self.train), used, batch_size, generator)

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Return `count` different training images, or all if fewer, augmented as in training.

        Batches are float32 [B, C, H, W] channels_last; the last may be smaller. Drawn when
        called. Raises UsageError when `count` or `batch_size` is below 1.
        """
        _check_batch_size(batch_size)
        if not whole(count) or count < 1:
            raise UsageError(f"calibration on {count!r} images; ask for a whole number, at least 1")
        count = min(count, len(self.train))
        return (x for x, _ in self._training(count, count, batch_size, generator))

    def evaluation(
        self, split: Literal["validation", "test"], batch_size: int = 250
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Return every image of `split` in order, normalised and not augmented.

        Batches are as in `epoch`; the last may be smaller. Raises UsageError for any other split
        or batch_size < 1.
        """
        _check_batch_size(batch_size)
        if split not in ("validation", "test"):
            raise UsageError(f"evaluation on split {split!r}: use 'validation' or 'test'")
        part = self._splits[split]
        slices = (slice(at, at + batch_size) for at in range(0, len(part), batch_size))
        return ((self._normalise(part.images[batch]), part.labels[batch]) for batch in slices)

    @property
    def _splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor]:
        """Scale and offset, float32 [H*W*C], that take raw pixels to what a network sees."""
        _, height, width = self.shape
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        pair = torch.stack([1 / (255 * std), -mean / std]).repeat(1, height * width)
        scale, offset = pair.to(self.train.images.device, torch.float32)
        return scale, offset

    def _normalise(self, images: Tensor) -> Tensor:
        """Return uint8 [B, H, W, C] as float32 [B, C, H, W], channels_last in memory."""
        scale, offset = self._affine
        # One long row an image: a broadcast over three channels would not vectorise.
        pixels = images.flatten(1).to(torch.float32)
        return torch.addcmul(offset, pixels, scale).view(images.shape).permute(0, 3, 1, 2)

    def _training(
        self, drawn: int, used: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw `drawn` training images now; return batches of the first `used`, augmented."""
        _, height, width = self.shape
        device = self.train.images.device
        order = torch.randperm(len(self.train), generator=generator)[:drawn][:used].to(device)
        draws = self.augmentation.draw(drawn, height, width, generator).to(device)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for start in range(0, len(order), batch_size):
                batch = slice(start, start + batch_size)
                moved = self.augmentation.move(self.train.images, order[batch], draws[:, batch])
                x = self._normalise(moved)
                self.augmentation.cut(x, draws[:, batch])
                yield x, self.train.labels[order[batch]]

        return batches()


def hold_out(labels: Tensor, part: int) -> Tensor:
    """Return bool [N]: True for the last 1/`part` (rounded down) of each class, as they stand.

    A stratified split without random numbers: the same on every machine. `labels` is int64 [N].
    """
    held = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == label).flatten()
        held[members[len(members) - len(members) // part :]] = True
    return held


def _check_batch_size(batch_size: int) -> None:
    if not whole(batch_size) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size!r}; it must be a whole number, at least 1")
