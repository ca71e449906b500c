"""What single weights are multiplied by where no layer's inputs say it.

Attention computes its projections itself, experts are slices of one tensor, and recurrent layers
read their own outputs. All of them end in products of matrices, of which one is a view of a
parameter: the squares of the other are summed where that view lies in the parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.model.inputs import Inputs, run
from secateur.model.passes import undisturbed

_FACTORS = {
    **dict.fromkeys(("mm", "bmm", "_grouped_mm", "grouped_mm_fallback"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm"), (1, 2)),
}
"""Where the two matrices stand among an operator's arguments; grouped ones have the ends of the
groups of rows behind them. The fallback is transformers' own."""


def mean_squares(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Inputs]
) -> dict[str, Tensor]:
    """Return E[x²] for every weight, float32, where x is what the weight is multiplied by.

    Args:
        model: run on every batch, in evaluation mode and without gradients; left as it was.
        weights: name → parameter of the model.
        batches: inputs as the model takes them.

    Returns:
        name → as the parameter, for those that are in any product of matrices; a weight that is
        in none, as one of an expert that no sample is sent to, has 0.
    """
    watch = _Products(weights)
    with undisturbed(model), torch.no_grad(), _in_parts(), watch:
        for batch in batches:
            run(model, batch)
    return {name: total / count.clamp_min(1) for name, (total, count) in watch.sums.items()}


@contextmanager
def _in_parts() -> Iterator[None]:
    """Let recurrent layers run as products of matrices, and not as one operator of a library."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # `flags` warns of other devices where it ends
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums squares where views of parameters lie in them."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights: dict[int, list[tuple[str, Tensor]]] = {}
        for name, weight in weights.items():  # those of a recurrent layer may share one storage
            at = weight.untyped_storage().data_ptr()
            self._weights.setdefault(at, []).append((name, weight.detach()))
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        """name → sums of squares, and how many terms each has."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kind = func._schema.name.rpartition("::")[2]
        if kind in _FACTORS:
            left, right = (args[place] for place in _FACTORS[kind])
            ends = (kwargs or {}).get("offs", args[2] if len(args) > 2 else None)
            if "grouped" not in kind or ends is None:
                self._note(right, left)
                self._note(left.mT, right.mT)
            elif left.dim() == 2 and right.dim() == 3:
                start = 0
                for view, end in zip(right, ends.tolist(), strict=True):
                    self._note(view, left[start:end])
                    start = end
        return func(*args, **(kwargs or {}))

    def _note(self, view: Tensor, x: Tensor) -> None:
        """Take x [..., n, d] · view [..., d, outputs] into account, if that is of a parameter."""
        if not (found := self._parameter(view)):
            return
        name, weight = found
        if name not in self.sums:
            sizes = weight.shape, weight.stride()
            self.sums[name] = tuple(  # type: ignore[assignment]
                torch.empty_strided(*sizes, device=weight.device).zero_() for _ in range(2)
            )
        squares = x.float().square().sum(-2)[..., None].expand(view.shape)
        terms = torch.full_like(squares, x.shape[-2])
        offset = view.storage_offset() - weight.storage_offset()
        for total, more in zip(self.sums[name], (squares, terms), strict=True):
            total.as_strided(view.shape, view.stride(), offset).add_(more)

    def _parameter(self, view: Tensor) -> tuple[str, Tensor] | None:
        for name, weight in self._weights.get(view.untyped_storage().data_ptr(), ()):
            if 0 <= view.storage_offset() - weight.storage_offset() < weight.numel():
                return name, weight
        return None
