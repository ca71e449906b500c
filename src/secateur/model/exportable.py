"""Functions that exporters do not know, or not in the operator set that files are of.

Adding one is a function in a file of this folder: it takes torch's own and what that was given,
and stands in `REPLACED` there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from secateur.model import axes, folding, fourier, pooling, resizing, sums

_REPLACED: dict[object, Callable[..., Any]] = {
    **axes.REPLACED,
    **folding.REPLACED,
    **fourier.REPLACED,
    **pooling.REPLACED,
    **resizing.REPLACED,
    **sums.REPLACED,
}


class Exportable(TorchFunctionMode):
    """Computes what exporters do not know by what they know, while it is entered."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        replaced = _REPLACED.get(func)
        if replaced is None:
            return func(*args, **(kwargs or {}))
        return replaced(func, *args, **(kwargs or {}))
