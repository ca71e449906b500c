"""Which images and how many classes a network can take."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.errors import UsageError, whole

InputShape = tuple[int, int, int]
"""(channels, height, width) of one image."""


def check(input_shape: InputShape, classes: int) -> None:
    """Raise UsageError unless these are three positive whole numbers and at least 2 classes."""
    sizes = tuple(input_shape)
    if len(sizes) != 3 or not all(whole(size) and size >= 1 for size in sizes):
        raise UsageError(
            f"input_shape is {input_shape!r}, but must be (channels, height, width), each a whole "
            "number of at least 1"
        )
    if not whole(classes) or classes < 2:
        raise UsageError(f"classes is {classes!r}, but must be a whole number of at least 2")


def narrowed(channels: Sequence[int], width: float) -> tuple[int, ...]:
    """Return channels times a width, rounded, of each at least one."""
    return tuple(max(1, round(width * each)) for each in channels)


def require_plane(net: str, input_shape: InputShape, least: int) -> None:
    """Raise UsageError when an image is less than `least` pixels high or wide."""
    _, height, width = input_shape
    if min(height, width) < least:
        raise UsageError(
            f"{net} halves the image until {least}x{least} pixels have become one, so an image of "
            f"{height}x{width} is too small for it; enlarge the images, or take another net "
            "(mlp takes every size)"
        )
