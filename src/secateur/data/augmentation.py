"""How a training image is varied: shifted, mirrored, and with a square cut out."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateur.errors import UsageError, whole

_MOST_PIXELS = 65_536


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image, each image with its own draws, in this order.

    `pad`: the image is shifted by -pad..pad pixels, down and across, each shift equally likely
    (the same as a random crop after padding by `pad` pixels). `fill`: what comes in at the edge,
    the image mirrored about its outermost pixels ("reflect") or raw pixel value 0 ("black").
    `flip`: mirrored left to right with probability 1/2. `cutout`: side in pixels of one square
    set to the mean colour, its centre uniform over the image, cut off at the edge
    (DeVries & Taylor 2017, arXiv:1708.04552); 0 for none. Raises UsageError for a negative size
    or an unknown fill.
    """

    pad: int = 0
    fill: Literal["reflect", "black"] = "reflect"
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for side in (self.pad, self.cutout):
            if not whole(side) or not 0 <= side <= _MOST_PIXELS:
                raise UsageError(
                    f"augmentation with pad={self.pad!r}, cutout={self.cutout!r}: "
                    f"both count pixels and must be whole numbers from 0 to {_MOST_PIXELS:,}"
                )
        if self.fill not in ("reflect", "black"):
            raise UsageError(f"augmentation fill {self.fill!r}: use 'reflect' or 'black'")

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw for `count` images of height x width pixels; return int64 [5, count, 1].

        The five rows: shift down, shift across, mirrored (0 or 1), row and column of the cut's
        centre. All five are drawn whatever is switched on, so that one switch does not change
        what the others draw.
        """
        bounds = (
            (-self.pad, self.pad + 1),
            (-self.pad, self.pad + 1),
            (0, 2 if self.flip else 1),
            (0, height),
            (0, width),
        )
        rows = [torch.randint(low, high, (count, 1), generator=generator) for low, high in bounds]
        return torch.stack(rows)

    def move(self, images: Tensor, indices: Tensor, draws: Tensor) -> Tensor:
        """Return `images[indices]`, each shifted and mirrored as drawn.

        `images` is uint8 [N, H, W, C], `indices` int64 [B], `draws` [5, B, 1], all on one device;
        the result is uint8 [B, H, W, C].

        Every pixel is fetched by one gather: shift, mirroring and fill are arithmetic on its
        address. Of the variants tried (padding and slicing by groups of equal shift, for a batch
        or for a whole epoch; windows of a padded copy) none was faster, and a GPU never waits.
        """
        chosen = images.index_select(0, indices)
        if not self.pad and not self.flip:
            return chosen
        count, height, width, channels = chosen.shape
        down, across, mirrored, _, _ = draws
        rows = torch.arange(height, device=images.device) + down
        columns = torch.arange(width, device=images.device)
        columns = torch.where(mirrored.bool(), width - 1 - columns, columns) + across
        first = torch.arange(count, device=images.device)[:, None, None] * (height * width)
        addresses = (
            first
            + (_reflect(rows, height) * width)[:, :, None]
            + _reflect(columns, width)[:, None, :]
        )
        pixels = chosen.view(-1, channels)
        if self.pad and self.fill == "black":
            outside = _outside(rows, height)[:, :, None] | _outside(columns, width)[:, None, :]
            addresses.masked_fill_(outside, len(pixels))
            pixels = torch.cat([pixels, pixels.new_zeros(1, channels)])
        return pixels.index_select(0, addresses.flatten()).view(chosen.shape)

    def cut(self, x: Tensor, draws: Tensor) -> None:
        """Set the drawn square of each image of `x`, float [B, C, H, W], to 0, in place.

        `x` is already normalised, so 0 is the mean colour.
        """
        if not self.cutout:
            return
        rows = _near(draws[3], x.shape[2], self.cutout)
        columns = _near(draws[4], x.shape[3], self.cutout)
        x.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _outside(positions: Tensor, size: int) -> Tensor:
    return (positions < 0) | (positions >= size)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirror positions in 1-size..2*size-2 about the first and the last; neither is repeated."""
    return size - 1 - (size - 1 - positions.abs()).abs()


def _near(centres: Tensor, size: int, side: int) -> Tensor:
    """Return bool [B, size]: True in the `side` positions about each of `centres` [B, 1]."""
    distance = torch.arange(size, device=centres.device) - centres + side // 2
    return (distance >= 0) & (distance < side)
