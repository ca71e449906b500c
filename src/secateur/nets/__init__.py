"""Networks by name, for images of any size, number of channels and number of classes.

Each module of this package is one family and names its networks in a dict `NETS`; a new family
is a new file. Initial weights are drawn from torch's global generator, so that the same
`torch.manual_seed` gives the same network.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from torch import nn

from secateur.errors import UsageError
from secateur.nets.shapes import InputShape, check

__all__ = ["NETS", "Builder", "InputShape", "build", "find"]


class Builder(Protocol):
    """What makes the networks of one name."""

    def __call__(self, input_shape: InputShape, classes: int, *, width: float = 1.0) -> nn.Module:
        """Return a fresh network for such images, its hidden channels times a width."""


NETS: dict[str, Builder] = {
    name: builder
    for family in iter_modules(__path__)
    for name, builder in getattr(import_module(f"{__name__}.{family.name}"), "NETS", {}).items()
}
"""Every network's builder, by its name."""


def find(name: str) -> Builder:
    """Return the builder of a network.

    Raises:
        UsageError: unknown network; lists the valid names.
    """
    if name not in NETS:
        raise UsageError(f"there is no net {name!r}; choose one of {', '.join(sorted(NETS))}")
    return NETS[name]


def build(
    name: str, *, input_shape: InputShape = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Return a fresh network, float32, on the CPU, in training mode.

    Args:
        name: a key of `NETS`.
        input_shape: (channels, height, width) of one image.
        classes: how many logits it gives, at least 2.
        width: what hidden channels are multiplied by, in (0, 1]; of each at least one is left.

    Returns:
        A module that maps float32 [N, C, H, W], in either memory format, to logits [N, classes].

    Raises:
        UsageError: no net of that name, an image too small for it, or a width out of its range.
    """
    builder = find(name)
    check(input_shape, classes)
    if isinstance(width, bool) or not 0 < width <= 1:
        raise UsageError(f"width is {width!r}, but must be in (0, 1]")
    return builder(input_shape, classes, width=width)
