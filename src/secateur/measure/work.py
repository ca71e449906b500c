"""What a network costs, counted: multiply-adds of every parameter, weights and bytes.

Multiply-adds are counted where they happen, operator by operator, while the network runs once;
so functional calls, reused modules and loops all count, and nothing is known of modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.model.inputs import Inputs, described, run
from secateur.model.passes import refusing, undisturbed

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of one pass over an example."""

    parameters: Mapping[str, int]
    """Per parameter that is multiplied with something: name → multiply-adds, all weights there."""
    activations: int
    """Those in which no parameter takes part, as in attention's products of two activations."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parameters.values()) + self.activations

    def kept(self, layers: Mapping[str, tuple[int, int]]) -> int:
        """Return how many are left when parameters keep (kept, total) of their weights.

        Every weight of a tensor takes part in equally many multiply-adds, so a tensor's share
        is exact. Parameters that are not named keep all.
        """
        total = self.activations
        for name, count in self.parameters.items():
            kept, size = layers.get(name, (1, 1))
            total += count * kept // size
        return total


def work(model: nn.Module, example: Inputs) -> Work:
    """Count the multiply-adds of one pass, in evaluation mode; the model is left as it was.

    Counted are convolutions and products of matrices (linear layers, attention, recurrent
    layers), as is usual; what is done element by element is not.

    Args:
        model: run once; its buffers and training modes are put back.
        example: its input or inputs; a mapping gives them by name. Divide by the batch size for
            the work of one sample.

    Raises:
        UsageError: the model does not take the example.
    """
    counter = _Counter(model)
    refusal = f"{type(model).__name__} does not take the example {described(example)}"
    with refusing(refusal), undisturbed(model), torch.no_grad(), counter:
        run(model, example)
    return Work(dict(counter.parameters), counter.activations)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds by the storage of their factors: a view of a weight is the weight."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {
            p.untyped_storage().data_ptr(): name
            for name, p in reversed(list(model.named_parameters()))
            if p.numel()
        }
        self.parameters: dict[str, int] = {}
        self.activations = 0
        self._copies: dict[int, tuple[Tensor, str]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in _PRODUCTS:
            for factors, count in _PRODUCTS[packet](args, out):
                name = next(filter(None, map(self._name, factors)), None)
                if name:
                    self.parameters[name] = self.parameters.get(name, 0) + count
                else:
                    self.activations += count
        elif packet in _COPIES and isinstance(out, Tensor) and (name := self._name(args[0])):
            self._copies[out.untyped_storage().data_ptr()] = (
                out,
                name,
            )  # held: no pointer is reused
        return out

    def _name(self, factor: Tensor) -> str | None:
        at = factor.untyped_storage().data_ptr()
        if at in self._copies:
            return self._copies[at][1]
        return self._names.get(at)


Products = list[tuple[Sequence[Tensor], int]]
"""Of one operator: the factors that may be a parameter, most likely first, and multiply-adds."""


def _matrices(left: Tensor, right: Tensor) -> Products:
    return [((right, left), left.numel() * right.shape[-1])]


def _convolved(args: tuple[Any, ...], out: Tensor) -> Products:
    inputs, weight, transposed = args[0], args[1], bool(args[6])
    positions = inputs if transposed else out
    # every weight meets every position of every sample once
    return [((weight,), weight.numel() * math.prod(positions.shape[2:]) * len(positions))]


def _attention(args: tuple[Any, ...], out: Any) -> Products:
    query, key, value = args[:3]
    pairs = query.numel() // query.shape[-1] * key.shape[-2]
    return [((), pairs * (query.shape[-1] + value.shape[-1]))]


def _recurrent(args: tuple[Any, ...], out: Any) -> Products:
    steps = args[0].shape[0] * args[0].shape[1]
    return [((weight,), weight.numel() * steps) for weight in args[1:3]]


_PRODUCTS: dict[Any, Callable[[tuple[Any, ...], Any], Products]] = {
    aten.mm: lambda args, out: _matrices(args[0], args[1]),
    aten.bmm: lambda args, out: _matrices(args[0], args[1]),
    aten.addmm: lambda args, out: _matrices(args[1], args[2]),
    aten.baddbmm: lambda args, out: _matrices(args[1], args[2]),
    aten.mv: lambda args, out: [((args[0], args[1]), args[0].numel())],
    aten.addmv: lambda args, out: [((args[1], args[2]), args[1].numel())],
    aten.dot: lambda args, out: [((args[0], args[1]), args[0].numel())],
    aten.convolution: _convolved,
    aten.mkldnn_rnn_layer: _recurrent,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}
_COPIES = {aten.clone, aten._to_copy, aten.contiguous}
