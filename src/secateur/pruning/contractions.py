"""Which dimension of a raw parameter counts inputs, as one pass of its model shows.

A parameter is followed through operators that only rearrange it (transposes, slices, one expert of
many) to its products with activations, which are tensors that depend on the inputs. The dimension
that such a product sums over counts inputs; the other of the last two counts outputs. A parameter
with any other use (a product with another parameter, a sum, attention) stays unknown, and one
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
"""For each dimension of a tensor, which dimension of the parameter it is, or None."""


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor that holds a part of a parameter, or all of it, and nothing else."""

    name: str
    dims: Dims


@dataclass(frozen=True, slots=True)
class Uses:
    """How one pass uses some parameters."""

    axes: Mapping[str, int | None]
    """Which dimension counts inputs, as in `Prunable.axes`. None without a product with an
    activation, where products disagree, and where there is another use."""
    tables: frozenset[str]
    """Parameters whose rows are looked up."""


def uses_of(model: nn.Module, names: Sequence[str], example: Inputs) -> Uses:
    """Run a model once and return how it uses some of its parameters.

    Args:
        model: run once, in evaluation mode and without gradients; modes, buffers and the state of
            torch's random generators are put back.
        names: of the parameters.
        example: inputs of one pass.

    Raises:
        UsageError: the model does not take the example.
    """
    follower = _Follower({name: model.get_parameter(name) for name in names}, model, example)
    refusal = f"{type(model).__name__} does not take the example"
    hint = "; give the inputs of one pass as example="
    with refusing(refusal, hint), undisturbed(model), torch.no_grad(), follower:
        run(model, example)
    return follower.uses_of()


CONSTANT, WEIGHTS, INPUTS = range(3)
"""What a tensor was computed from. Of several, the last counts."""


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows which part of a parameter each tensor is, and notes what products sum over."""

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

    def uses_of(self) -> Uses:
        """Return what all uses of each parameter show together."""
        axes = {name: seen.pop() if len(seen) == 1 else None for name, seen in self._seen.items()}
        return Uses(axes, frozenset(self._tables))

    def view(self, tensor: object) -> _View | None:
        """Return which part of a parameter a tensor is, or None."""
        return self._views.get(tensor) if isinstance(tensor, Tensor) else None

    def _origin(self, tensor: Tensor) -> int:
        """Return what a tensor was computed from, or the tensor that it is a view of."""
        found = self._origins.get(tensor, CONSTANT)
        base = tensor._base
        return found if base is None else max(found, self._origins.get(base, CONSTANT))

    def _counts(self, view: _View, other: Tensor) -> bool:
        """Return whether a product with another tensor shows inputs; a weight hides them."""
        origin = self._origin(other)
        if self.view(other) is not None or origin == WEIGHTS:
            self.unknown(view)
            return False
        return origin == INPUTS  # not a constant, such as the first state of a recurrent layer

    def unknown(self, view: _View) -> None:
        """Note a use of a parameter that cannot be followed."""
        self._seen[view.name].add(None)

    def table(self, view: _View) -> None:
        """Note that rows of a parameter are looked up."""
        self._tables.add(view.name)
        self.unknown(view)

    def product(self, tensor: object, other: Tensor, summed: int, kept: int) -> None:
        """Note a product of matrices, or of stacks of matrices.

        Args:
            tensor: one factor.
            other: the other factor.
            summed: the dimension of `tensor` that the product sums over.
            kept: the other dimension of its matrices.
        """
        view = self.view(tensor)
        if view is not None and self._counts(view, other):
            inputs, outputs = view.dims[summed], view.dims[kept]
            size = self._parameters[view.name].dim()
            if inputs is not None and size > 2:
                # a stack if the last two dimensions are its matrices; or if the last one counts
                # inputs, since all others then count outputs or matrices
                stack = inputs == size - 1 or (inputs, outputs) == (size - 2, size - 1)
                inputs = inputs - size if stack else None
            self._seen[view.name].add(inputs)

    def convolution(self, weight: object, signal: Tensor, transposed: bool) -> None:
        """Note a convolution with a whole weight; a part of one shows nothing."""
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
        """Note how an operator uses parts of parameters."""
        if name.endswith("_like") or name.startswith("new_"):
            return  # only the shape is used
        followed = _USES[name](self, args, kwargs, out) if name in _USES else ()
        for tensor in tensors_in((args, kwargs)):
            if (view := self.view(tensor)) and not any(tensor is one for one in followed):
                self.unknown(view)

    def follow(self, view: _View, dims: Dims | None, out: Any) -> None:
        """Note that an operator returned parts of a parameter."""
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if dims is not None and len(dims) == tensor.dim():
                self._views[tensor] = _View(view.name, dims)
            else:
                self.unknown(view)

    def _descend(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Note what an operator computed from inputs or weights."""
        given = list(tensors_in((args, kwargs)))
        origin = max(map(self._origin, given), default=CONSTANT)
        for tensor in tensors_in(out) if origin else ():
            self._origins[tensor] = origin
            # writing into a view writes into its base
            if tensor._base is not None and any(tensor is one for one in given):
                self._origins[tensor._base] = origin


Use = Callable[[_Follower, Any, Any, Any], tuple[object, ...]]
"""(follower, arguments, keyword arguments, outputs) → the arguments whose use it has noted."""


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
    """Note that a weight times a number is used like the weight."""
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
    """Return dimensions that keep their size and their place in memory; others become None."""
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
    """Replace a dimension that a tensor of positions indexes by that tensor's dimensions."""
    at = [number for number, index in enumerate(args[1]) if index is not None]
    if len(at) != 1 or args[1][at[0]].dtype == torch.bool:
        return None
    return (*dims[: at[0]], *([None] * args[1][at[0]].dim()), *dims[at[0] + 1 :])


def _looked_up(dims: Dims, args: tuple[Any, ...]) -> bool:
    """Return whether positions pick rows of matrices rather than matrices of a stack."""
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
