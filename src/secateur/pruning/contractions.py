"""Which dimension of a raw parameter counts inputs, seen in one pass of its model.

A parameter is followed through what only rearranges it (transposes, slices, one expert of many)
to the products with activations, what depends on the inputs, that it takes part in. The dimension
that such a product adds up counts inputs; what is left of the last two counts outputs. A parameter
that has any other use (a product with another parameter, a sum, attention) stays unknown, and one
whose rows are picked by positions is a table.
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
from secateur.model.inputs import Inputs, run, tensors_in
from secateur.model.modes import evaluating

Dims = tuple[int | None, ...]
"""For each dimension of a tensor, the parameter's dimension that it is; None where it is none."""


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor that holds nothing but a part of a parameter, or all of it."""

    name: str
    dims: Dims


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass shows of some parameters."""

    axes: Mapping[str, int | None]
    """Which dimension counts inputs, as `Prunable.axes`: None where no product with an activation
    was seen, or several that disagree, or another use."""
    tables: frozenset[str]
    """Those whose rows are looked up."""


def measured(model: nn.Module, names: Sequence[str], example: Inputs) -> Measured:
    """Run a model once and say how it uses some of its parameters.

    Args:
        model: run once, in evaluation mode and without gradients; modes, buffers and the state of
            torch's random generators are put back.
        names: of the parameters that are looked at.
        example: inputs of one pass.

    Raises:
        UsageError: the model does not take the example.
    """
    follower = _Follower({name: model.get_parameter(name) for name in names}, model, example)
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
    return follower.measured()


class _Tensors:
    """A set of tensors that keeps none of them alive."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._known: dict[int, weakref.ref[Tensor]] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        self._known[id(tensor)] = weakref.ref(tensor)

    def __contains__(self, tensor: Tensor) -> bool:
        known = self._known.get(id(tensor))
        return known is not None and known() is tensor  # ids are given out again


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows of every tensor which part of a parameter it is, and notes what products add up."""

    def __init__(self, parameters: Mapping[str, Tensor], model: nn.Module, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = parameters
        self._views: dict[int, tuple[weakref.ref[Tensor], _View]] = {}
        for name, parameter in parameters.items():
            self._know(parameter, _View(name, tuple(range(parameter.dim()))))
        self._seen: dict[str, set[int | None]] = {name: set() for name in parameters}
        self._tables: set[str] = set()
        self._activations = _Tensors(list(tensors_in(example)))
        self._made_of_weights = _Tensors(list(model.parameters()))

    def measured(self) -> Measured:
        """Return what the uses agree about."""
        axes = {name: seen.pop() if len(seen) == 1 else None for name, seen in self._seen.items()}
        return Measured(axes, frozenset(self._tables))

    def view(self, tensor: object) -> _View | None:
        """Return which part of a parameter a tensor is, if it is one."""
        known = self._views.get(id(tensor))
        return known[1] if known and known[0]() is tensor else None  # ids are given out again

    def _know(self, tensor: Tensor, view: _View) -> None:
        self._views[id(tensor)] = weakref.ref(tensor), view

    def _counts(self, view: _View, other: Tensor) -> bool:
        """Return whether a product with another tensor shows something; one of weights hides it."""
        if self.view(other) is None and _has(self._activations, other):
            return True
        if self.view(other) is not None or _has(self._made_of_weights, other):
            self.unknown(view)
        return False  # a constant, such as the zeros that a recurrent layer starts with

    def unknown(self, view: _View) -> None:
        """Note a use of a parameter that cannot be followed."""
        self._seen[view.name].add(None)

    def table(self, view: _View) -> None:
        """Note that rows of a parameter are looked up."""
        self._tables.add(view.name)
        self.unknown(view)

    def product(self, tensor: object, other: Tensor, added_up: int, left: int) -> None:
        """Note a product with a matrix, or a stack of them.

        Args:
            tensor: the factor.
            other: the other factor.
            added_up: its dimension that is added up.
            left: the other one of its matrices.
        """
        view = self.view(tensor)
        if view is not None and self._counts(view, other):
            inputs, outputs = view.dims[added_up], view.dims[left]
            size = self._parameters[view.name].dim()
            if inputs is not None and size > 2:
                # a stack, if its matrices are the last two dimensions; all others count outputs,
                # or matrices, where the last one counts inputs
                stack = inputs == size - 1 or (inputs, outputs) == (size - 2, size - 1)
                inputs = inputs - size if stack else None
            self._seen[view.name].add(inputs)

    def convolution(self, weight: object, signal: Tensor, transposed: bool) -> None:
        """Note a convolution with a weight, whose kernels are not taken apart."""
        view = self.view(weight)
        if view is not None and self._counts(view, signal):
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
        self._note(name, args, kwargs, out)
        self._descend(args, kwargs, out)
        return out

    def _note(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note what an operator does with parts of parameters."""
        followed: tuple[object, ...] = ()
        if name in _PRODUCTS:
            factors, note = _PRODUCTS[name]
            note(self, args)
            followed = tuple(args[at] for at in factors)
        elif name in _SCALINGS and len(args) > 1:
            first, second = args[:2]
            scaled, by = (second, first) if self.view(first) is None else (first, second)
            if (view := self.view(scaled)) and (not isinstance(by, Tensor) or by.dim() == 0):
                self._follow(view, view.dims, out)
                followed = (scaled,)
        elif args and (view := self.view(args[0])) is not None and name in _MOVES:
            if name in _LOOKUPS and _looked_up(view.dims, args):
                self.table(view)
            else:
                self._follow(view, _MOVES[name](view.dims, args, kwargs, out), out)
            followed = (args[0],)
        elif name.endswith("_like") or name.startswith("new_"):
            return  # only the shape is used
        for tensor in tensors_in((args, kwargs)):
            if (view := self.view(tensor)) and not any(tensor is one for one in followed):
                self.unknown(view)

    def _follow(self, view: _View, dims: Dims | None, out: Any) -> None:
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if dims is not None and len(dims) == tensor.dim():
                self._know(tensor, _View(view.name, dims))
            else:
                self.unknown(view)

    def _descend(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Remember whether what an operator returns comes from the inputs, or from weights."""
        given = list(tensors_in((args, kwargs)))
        for kind in (self._activations, self._made_of_weights):
            if any(_has(kind, tensor) for tensor in given):
                for tensor in tensors_in(out):
                    kind.add(tensor)
                    # what is written into a part is in the whole, too
                    if tensor._base is not None and any(tensor is one for one in given):
                        kind.add(tensor._base)
                return


def _has(kind: _Tensors, tensor: Tensor) -> bool:
    return tensor in kind or (tensor._base is not None and tensor._base in kind)


Product = tuple[tuple[int, ...], Callable[[_Follower, Any], None]]
"""Which arguments are factors, and what is to be noted of them."""


def _matrices(left: int, right: int) -> Product:
    def note(follower: _Follower, args: Any) -> None:
        follower.product(args[left], args[right], -1, -2)
        follower.product(args[right], args[left], -2, -1)

    return (left, right), note


def _vector(matrix: int) -> Product:
    def note(follower: _Follower, args: Any) -> None:
        follower.product(args[matrix], args[matrix + 1], -1, -2)

    return (matrix,), note


def _convolved(follower: _Follower, args: Any) -> None:
    follower.convolution(args[1], args[0], bool(args[6]))


_PRODUCTS: dict[str, Product] = {
    "mm": _matrices(0, 1),
    "bmm": _matrices(0, 1),
    "addmm": _matrices(1, 2),
    "baddbmm": _matrices(1, 2),
    "_addmm_activation": _matrices(1, 2),
    "_grouped_mm": _matrices(0, 1),
    "grouped_mm_fallback": _matrices(0, 1),  # of transformers
    "mv": _vector(0),
    "addmv": _vector(1),
    "convolution": ((1,), _convolved),
}
_SCALINGS = ("mul", "div")
"""Of one number, they leave a weight what it is."""

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


def _looked_up(dims: Dims, args: tuple[Any, ...]) -> bool:
    """Return whether positions pick rows of matrices, and not whole matrices of a stack."""
    if isinstance(args[1], Tensor):  # of an embedding
        return True
    if isinstance(args[1], int):  # the dimension that index_select and gather pick from
        return args[1] % len(dims) >= len(dims) - 2
    picked = [at for at, index in enumerate(args[1]) if index is not None]
    positions = all(args[1][at].dtype not in (torch.bool, torch.uint8) for at in picked)
    return positions and any(at >= len(dims) - 2 for at in picked)


def _lost(dims: Dims, args: Any, kwargs: Any, out: Any) -> None:
    return None


def _chosen(dims: Dims, args: Any, kwargs: Any, out: Any) -> Dims:
    at = args[1] % len(dims)
    return (*dims[:at], None, *dims[at + 1 :])


_MOVES: dict[str, Move] = {
    **dict.fromkeys(("detach", "alias", "clone", "_to_copy", "slice", "split"), _same),
    **dict.fromkeys(("split_with_sizes", "contiguous", "lift_fresh"), _same),
    **dict.fromkeys(("t", "transpose"), _transposed),
    **dict.fromkeys(("select", "unbind"), _dropped),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze"), _reshaped),
    "permute": _permuted,
    "unsqueeze": _added,
    "expand": _expanded,
    "index": _indexed,
    "index_select": _chosen,
    **dict.fromkeys(("embedding", "_embedding_bag", "embedding_bag", "gather"), _lost),
    "_embedding_bag_forward_only": _lost,
}
_LOOKUPS = (
    *("index", "index_select", "embedding", "embedding_bag", "_embedding_bag", "gather"),
    "_embedding_bag_forward_only",
)
