"""Which dimension of a raw parameter counts inputs, seen in one pass of its model.

A parameter is followed through what only rearranges it (transposes, slices, one expert of many)
to the products that it takes part in. The dimension that a product adds up counts inputs; what
is left of the last two counts outputs. Whatever cannot be followed stays unknown.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import UsageError
from secateur.inputs import Inputs, run
from secateur.modes import evaluating

Dims = tuple[int | None, ...]
"""For each dimension of a tensor, the parameter's dimension that it is; None where it is none."""


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor that holds nothing but a part of a parameter, or all of it."""

    name: str
    dims: Dims


def measured_axes(model: nn.Module, names: Sequence[str], example: Inputs) -> dict[str, int | None]:
    """Return which dimension of some parameters counts inputs, as `Prunable.axes`.

    Args:
        model: run once, in evaluation mode and without gradients; modes, buffers and the state of
            torch's random generators are put back.
        names: of the parameters that are looked at.
        example: inputs of one pass.

    Returns:
        name → dimension; None where no product was seen, or several that disagree.

    Raises:
        UsageError: the model does not take the example.
    """
    follower = _Follower({name: model.get_parameter(name) for name in names})
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it hides products in one operator
        with torch.random.fork_rng(list(devices)), evaluating(model), torch.no_grad(), follower:
            run(model, example)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{type(model).__name__} does not take the example: {error}; give the inputs of one "
            "pass as example="
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name, buffer in model.named_buffers():
            if name in kept:
                buffer.copy_(kept[name])
    return follower.axes()


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows of every tensor which part of a parameter it is, and notes what products add up."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = parameters
        self._known: dict[int, tuple[weakref.ref[Tensor], _View]] = {}
        for name, parameter in parameters.items():
            self._know(parameter, _View(name, tuple(range(parameter.dim()))))
        self._seen: dict[str, set[int | None]] = {name: set() for name in parameters}

    def axes(self) -> dict[str, int | None]:
        """Return what the products agree about."""
        return {name: seen.pop() if len(seen) == 1 else None for name, seen in self._seen.items()}

    def view(self, tensor: object) -> _View | None:
        """Return which part of a parameter a tensor is, if it is one."""
        known = self._known.get(id(tensor))
        return known[1] if known and known[0]() is tensor else None  # ids are given out again

    def _know(self, tensor: Tensor, view: _View) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), view

    def product(self, tensor: object, added_up: int, left: int) -> None:
        """Note a product with a matrix, or a stack of them.

        Args:
            tensor: the factor.
            added_up: its dimension that is added up.
            left: the other one of its matrices.
        """
        view = self.view(tensor)
        if view is not None:
            inputs, outputs = view.dims[added_up], view.dims[left]
            size = self._parameters[view.name].dim()
            if inputs is not None and size > 2:
                # a stack, if its matrices are the last two dimensions; all others count outputs,
                # or matrices, where the last one counts inputs
                stack = inputs == size - 1 or (inputs, outputs) == (size - 2, size - 1)
                inputs = inputs - size if stack else None
            self._seen[view.name].add(inputs)

    def convolution(self, weight: object, transposed: bool) -> None:
        """Note a convolution with a weight, whose kernels are not taken apart."""
        view = self.view(weight)
        if view is not None:
            whole = view.dims == tuple(range(self._parameters[view.name].dim()))
            self._seen[view.name].add((0 if transposed else 1) if whole else None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose() and func.namespace == "aten":
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if name in _PRODUCTS:
            _PRODUCTS[name](self, args)
        elif args and (view := self.view(args[0])) is not None and name in _MOVES:
            self._follow(view.name, _MOVES[name](view.dims, args, kwargs, out), out)
        return out

    def _follow(self, name: str, dims: Dims | None, out: Any) -> None:
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if dims is not None and len(dims) == tensor.dim():
                self._know(tensor, _View(name, dims))


def _matrices(left: int, right: int) -> Callable[[_Follower, Any], None]:
    def note(follower: _Follower, args: Any) -> None:
        follower.product(args[left], -1, -2)
        follower.product(args[right], -2, -1)

    return note


def _vector(matrix: int) -> Callable[[_Follower, Any], None]:
    return lambda follower, args: follower.product(args[matrix], -1, -2)


_PRODUCTS: dict[str, Callable[[_Follower, Any], None]] = {
    "mm": _matrices(0, 1),
    "bmm": _matrices(0, 1),
    "addmm": _matrices(1, 2),
    "baddbmm": _matrices(1, 2),
    "_addmm_activation": _matrices(1, 2),
    "_grouped_mm": _matrices(0, 1),
    "grouped_mm_fallback": _matrices(0, 1),  # of transformers
    "mv": _vector(0),
    "addmv": _vector(1),
    "convolution": lambda follower, args: follower.convolution(args[1], bool(args[6])),
}

Move = Callable[[Dims, tuple[Any, ...], Mapping[str, Any], Any], Dims | None]


def _same(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    return dims


def _transposed(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    first, second = args[1:3] if len(args) > 2 else (0, 1)
    moved = list(dims)
    if len(moved) > 1:
        moved[first], moved[second] = moved[second], moved[first]
    return tuple(moved)


def _permuted(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    return tuple(dims[at] for at in args[1])


def _dropped(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    at = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % len(dims)
    return dims[:at] + dims[at + 1 :]


def _added(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    at = args[1] % (len(dims) + 1)
    return (*dims[:at], None, *dims[at:])


def _reshaped(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims | None:
    """Let dimensions stay what they are where their size and their place among others does."""
    if not out.numel() or out.numel() != args[0].numel():  # empty, or read as another dtype
        return None
    before = [(size, dim) for size, dim in zip(args[0].shape, dims, strict=True) if size != 1]
    after = [(size, at) for at, size in enumerate(out.shape) if size != 1]
    found: list[int | None] = [None] * out.dim()
    while before and after:
        (one, dim), (other, at) = before.pop(0), after.pop(0)
        if one == other:
            found[at] = dim
        while one != other:  # dimensions that were merged or taken apart
            if one < other:
                one *= before.pop(0)[0]
            else:
                other *= after.pop(0)[0]
    return tuple(found)


def _expanded(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    return (*([None] * (out.dim() - len(dims))), *dims)


def _indexed(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims | None:
    """One dimension is taken by a tensor of positions, whose own come in its place."""
    at = [number for number, index in enumerate(args[1]) if index is not None]
    if len(at) != 1 or args[1][at[0]].dtype == torch.bool:
        return None
    return (*dims[: at[0]], *([None] * args[1][at[0]].dim()), *dims[at[0] + 1 :])


def _chosen(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    at = args[1] % len(dims)
    return (*dims[:at], None, *dims[at + 1 :])


_MOVES: dict[str, Move] = {
    **dict.fromkeys(("detach", "alias", "clone", "_to_copy", "slice", "split"), _same),
    **dict.fromkeys(("split_with_sizes", "contiguous", "lift_fresh"), _same),
    **dict.fromkeys(("t", "transpose"), _transposed),
    **dict.fromkeys(("select", "unbind"), _dropped),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _reshaped),
    "permute": _permuted,
    "unsqueeze": _added,
    "expand": _expanded,
    "index": _indexed,
    "index_select": _chosen,
}
