"""Which dimension of a raw parameter counts inputs, seen in one pass of its model.

A parameter is followed through what only rearranges it (transposes, slices, one expert of many)
to the products with activations, what depends on the inputs, that it takes part in. The dimension
that such a product adds up counts inputs; what is left of the last two counts outputs. A parameter
that has any other use (a product with another parameter, a sum, attention) stays unknown, and one
whose rows are picked by positions is a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from secateur.model.inputs import Inputs, run, tensors_in
from secateur.model.passes import decomposed, refusing, undisturbed

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
    refusal = f"{type(model).__name__} does not take the example"
    hint = "; give the inputs of one pass as example="
    with refusing(refusal, hint), undisturbed(model), torch.no_grad(), follower:
        run(model, example)
    return follower.measured()


CONSTANT, WEIGHTS, INPUTS = range(3)
"""What a tensor was made of; what was made of several things counts as the last of them."""


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows of every tensor which part of a parameter it is, and notes what products add up."""

    def __init__(self, parameters: Mapping[str, Tensor], model: nn.Module, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = parameters
        # neither keeps tensors alive
        self._views: MutableMapping[Tensor, _View] = WeakTensorKeyDictionary()
        self._origins: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        for name, parameter in parameters.items():
            self._views[parameter] = _View(name, tuple(range(parameter.dim())))
        self._seen: dict[str, set[int | None]] = {name: set() for name in parameters}
        self._tables: set[str] = set()
        self._origins.update(dict.fromkeys(model.parameters(), WEIGHTS))
        self._origins.update(dict.fromkeys(tensors_in(example), INPUTS))

    def measured(self) -> Measured:
        """Return what the uses agree about."""
        axes = {name: seen.pop() if len(seen) == 1 else None for name, seen in self._seen.items()}
        return Measured(axes, frozenset(self._tables))

    def view(self, tensor: object) -> _View | None:
        """Return which part of a parameter a tensor is, if it is one."""
        return self._views.get(tensor) if isinstance(tensor, Tensor) else None

    def _origin(self, tensor: Tensor) -> int:
        """Return what a tensor, or what it is a view of, was made of."""
        found = self._origins.get(tensor, CONSTANT)
        base = tensor._base
        return found if base is None else max(found, self._origins.get(base, CONSTANT))

    def _counts(self, view: _View, other: Tensor) -> bool:
        """Return whether a product with another tensor shows something; one of weights hides it."""
        origin = self._origin(other)
        if self.view(other) is not None or origin == WEIGHTS:
            self.unknown(view)
            return False
        return origin == INPUTS  # no constant, such as the zeros that a recurrent layer starts with

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
        if func.namespace == "aten":
            out = decomposed(self, func, args, kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._note(func._schema.name.partition("::")[2], args, kwargs, out)
        self._descend(args, kwargs, out)
        return out

    def _note(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note what an operator does with parts of parameters."""
        if name.endswith("_like") or name.startswith("new_"):
            return  # only the shape is used
        followed = _USES[name](self, args, kwargs, out) if name in _USES else ()
        for tensor in tensors_in((args, kwargs)):
            if (view := self.view(tensor)) and not any(tensor is one for one in followed):
                self.unknown(view)

    def follow(self, view: _View, dims: Dims | None, out: Any) -> None:
        """Note that what an operator returned are parts of a parameter."""
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if dims is not None and len(dims) == tensor.dim():
                self._views[tensor] = _View(view.name, dims)
            else:
                self.unknown(view)

    def _descend(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Remember what was made of inputs or weights."""
        given = list(tensors_in((args, kwargs)))
        origin = max(map(self._origin, given), default=CONSTANT)
        for tensor in tensors_in(out) if origin else ():
            self._origins[tensor] = origin
            # what is written into a part is in the whole, too
            if tensor._base is not None and any(tensor is one for one in given):
                self._origins[tensor._base] = origin


Use = Callable[[_Follower, Any, Any, Any], tuple[object, ...]]
"""Notes how an operator uses parts of parameters, and returns those that it knows what to do with;
it is given the follower, arguments, keyword arguments and what came out."""


def _matrices(left: int, right: int) -> Use:
    def note(follower: _Follower, args: Any, kwargs: Any, out: Any) -> tuple[object, ...]:
        follower.product(args[left], args[right], -1, -2)
        follower.product(args[right], args[left], -2, -1)
        return args[left], args[right]

    return note


def _vector(matrix: int) -> Use:
    def note(follower: _Follower, args: Any, kwargs: Any, out: Any) -> tuple[object, ...]:
        follower.product(args[matrix], args[matrix + 1], -1, -2)
        return (args[matrix],)

    return note


def _convolved(follower: _Follower, args: Any, kwargs: Any, out: Any) -> tuple[object, ...]:
    follower.convolution(args[1], args[0], bool(args[6]))
    return (args[1],)


def _scaled(follower: _Follower, args: Any, kwargs: Any, out: Any) -> tuple[object, ...]:
    """Times one number, a weight is what it was."""
    scaled, by = args[:2] if follower.view(args[0]) is not None else args[1::-1]
    view = follower.view(scaled)
    if view is None or (isinstance(by, Tensor) and by.dim()):
        return ()
    follower.follow(view, view.dims, out)
    return (scaled,)


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
    before = dict(zip(_spans(args[0].shape), dims, strict=True))
    return tuple(before.get(span) if span[1] != 1 else None for span in _spans(out.shape))


def _spans(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each dimension the product of the sizes before it, and its size."""
    return [(math.prod(shape[:at]), size) for at, size in enumerate(shape)]


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


def _moved(move: Move, *, looks_up: bool = False) -> Use:
    def note(follower: _Follower, args: Any, kwargs: Any, out: Any) -> tuple[object, ...]:
        if view := follower.view(args[0]):
            if looks_up and _looked_up(view.dims, args):
                follower.table(view)
            else:
                follower.follow(view, move(view.dims, args, kwargs, out), out)
        return (args[0],)

    return note


_USES: dict[str, Use] = {
    **dict.fromkeys(("mm", "bmm", "_grouped_mm"), _matrices(0, 1)),
    "grouped_mm_fallback": _matrices(0, 1),  # of transformers
    **dict.fromkeys(("addmm", "baddbmm", "_addmm_activation"), _matrices(1, 2)),
    "mv": _vector(0),
    "addmv": _vector(1),
    "convolution": _convolved,
    **dict.fromkeys(("mul", "div"), _scaled),
    **dict.fromkeys(("detach", "alias", "clone", "_to_copy", "slice", "split"), _moved(_same)),
    **dict.fromkeys(("split_with_sizes", "contiguous", "lift_fresh"), _moved(_same)),
    **dict.fromkeys(("t", "transpose"), _moved(_transposed)),
    **dict.fromkeys(("select", "unbind"), _moved(_dropped)),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze"), _moved(_reshaped)),
    "permute": _moved(_permuted),
    "unsqueeze": _moved(_added),
    "expand": _moved(_expanded),
    "index": _moved(_indexed, looks_up=True),
    "index_select": _moved(_chosen, looks_up=True),
    **dict.fromkeys(("embedding", "gather", "embedding_bag"), _moved(_lost, looks_up=True)),
    **dict.fromkeys(
        ("_embedding_bag", "_embedding_bag_forward_only"), _moved(_lost, looks_up=True)
    ),
}
