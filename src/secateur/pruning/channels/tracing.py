"""One pass of a model on an example, watched operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.errors import UsageError
from secateur.model.inputs import Inputs, run, tensors_in
from secateur.model.modes import evaluating
from secateur.pruning.channels.labels import Grid, Labels, Ledger, Operand, varied

OPAQUE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Modules whose sizes torch checks against numbers that they were made with."""

FIXED_MODULES = "torch.nn"


def has_fixed_sizes(module: nn.Module) -> bool:
    """Return whether a module is torch's own, whose numbers follow from its tensors."""
    return type(module).__module__.startswith(FIXED_MODULES) and not isinstance(
        module, (nn.Unflatten, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )


@dataclass(frozen=True, eq=False)
class Reading:
    """One use of channels by something that adds them up, so that they end there."""

    channels: Grid
    """The labels of what is read, one per channel, flat."""
    weight: Grid | None
    """Of the reading weight's indices, as long as `channels`; None where no weight reads."""
    values: Tensor | None
    """What the first place of each channel held, float64, as long as `channels`."""
    labels: Labels
    foldable: bool
    """A constant that is read may be added to the bias instead."""


@dataclass(frozen=True, eq=False)
class Size:
    """Sizes that a module's own code may have in numbers of its own."""

    module: str
    parts: tuple[int | tuple[Grid, int], ...]
    """For each size a grid and its dimension that has it; a number where channels do not vary."""
    given: bool
    """The operator was told these numbers; else they are only what came of it."""


@dataclass(eq=False)
class Trace:
    """What one pass has shown."""

    ledger: Ledger = field(default_factory=Ledger)
    owned: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """The labels of every parameter and buffer: (name, dimension) → int64 [size]."""
    written: list[Grid] = field(default_factory=list)
    """Labels of weights' outputs: what makes a channel."""
    readings: list[Reading] = field(default_factory=list)
    held: list[Grid] = field(default_factory=list)
    """Grids of all tensors that were seen: none of them may be left without channels."""
    sizes: list[Size] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Call:
    """One operator that ran."""

    func: Any
    name: str
    """Without namespace and overload, such as `add`; in-place forms under the plain name."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: Any

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument by its name in the operator's schema."""
        for at, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                given = self.args[at] if at < len(self.args) else self.kwargs.get(name)
                return argument.default_value if given is None and at >= len(self.args) else given
        return default

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among its arguments, those in lists too."""
        return list(tensors_in([self.args, dict(self.kwargs)]))


Rule = Callable[["Tracer", Call], None]


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries labels from operator to operator; one without a rule lets its channels stay."""

    def __init__(self, rules: Callable[[Any, str], Rule | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules = rules
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        self.path: list[tuple[str, nn.Module]] = []
        self.trace = Trace()
        self.ledger = self.trace.ledger

    def own(self, name: str, tensor: Tensor, *, weight: bool) -> None:
        """Label every dimension of a parameter or buffer."""
        grids = []
        for d, size in enumerate(tensor.shape):
            if size > 1:
                labels = self.ledger.fresh(size)
                self.trace.owned[name, d] = labels
                shape = [1] * tensor.dim()
                shape[d] = size
                grids.append(labels.to(tensor.device).reshape(shape))
        if grids:
            self.put(
                tensor,
                Labels(tuple(grids), zero=weight, pure=True, weight=weight, buffer=not weight),
            )

    def labels(self, tensor: object) -> Labels | None:
        """Return what is known of a tensor."""
        known = self._known.get(id(tensor))
        return known[1] if known else None

    def operand(self, tensor: Tensor) -> Operand:
        """Return a tensor's shape with its labels."""
        return Operand(tuple(tensor.shape), self.labels(tensor))

    def put(self, tensor: Tensor, labels: Labels | None) -> None:
        """Say what is known of a tensor from now on; it is kept, so that its id stays its own."""
        if labels is None or not labels.grids:
            self._known.pop(id(tensor), None)
        else:
            self._known[id(tensor)] = (tensor, labels)
            self.trace.held.extend(labels.grids)

    def block(self, values: object, reason: str) -> None:
        """Let all channels of the tensors in a structure stay."""
        for tensor in tensors_in(values):
            if labels := self.labels(tensor):
                for grid in labels.grids:
                    self.ledger.block(grid, reason)

    def at(self, what: str) -> str:
        """Return a reason with the place where it came up."""
        path = self.path[-1][0] if self.path else ""
        return f"{what} in {path}" if path else what

    def note_sizes(self, parts: Sequence[int | tuple[Grid, int]], *, given: bool) -> None:
        """Remember sizes that the code of the module that runs may have as numbers."""
        varying = any(not isinstance(part, int) for part in parts)
        if varying and self.path and not has_fixed_sizes(self.path[-1][1]):
            self.trace.sizes.append(Size(self.path[-1][0], tuple(parts), given))

    def sizes(self, tensor: Tensor) -> list[int | tuple[Grid, int]]:
        """Return a tensor's sizes, each with the grid that varies along it."""
        found: list[int | tuple[Grid, int]] = list(tensor.shape)
        for grid in self.operand(tensor).grids:
            for d in varied(grid):
                found[d] = (grid, d)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if func._schema.is_mutable and name.endswith("_") and not name.endswith("__"):
            name = name[:-1]
        opaque = next((at for at in self.path if isinstance(at[1], OPAQUE)), None)
        rule = self._rules(func, name)
        if rule is None and not opaque and func._can_decompose():
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        before = [(tensor, self.labels(tensor)) for tensor in tensors_in([args, kwargs])]
        out = func(*args, **kwargs)
        if not any(labels for _, labels in before):
            return out
        if opaque:
            kind = f"nn.{type(opaque[1]).__name__}"
            self.block([args, kwargs], f"{opaque[0]} is an {kind}, whose sizes are fixed")
        elif rule is None:
            self.block([args, kwargs], self.at(f"reaches aten.{name}, which has no rule"))
        else:
            rule(self, Call(func, name, args, kwargs, out))
        return out


@contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Run models inside in evaluation mode, without gradients or fast paths.

    Modes, fast paths and the states of torch's random generators are put back.
    """
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    state = torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.inference_mode():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(state[0])
        if state[1]:
            torch.cuda.set_rng_state_all(state[1])


def traced(model: nn.Module, example: Inputs, rules: Callable[[Any, str], Rule | None]) -> Trace:
    """Run a model once and return what was seen.

    Args:
        model: a copy that nobody else needs: a model may keep things of its first pass.
        example: its inputs; small ones are enough.
        rules: operator and name → its rule.

    Raises:
        UsageError: the model does not take the example.
    """
    tracer = Tracer(rules)
    for name, parameter in model.named_parameters():
        tracer.own(name, parameter, weight=True)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            tracer.own(name, buffer, weight=False)
    with ExitStack() as stack:
        for path, module in model.named_modules():
            for handle in _followed(tracer, path, module):
                stack.callback(handle.remove)
        try:
            with watched(model), tracer:
                out = run(model, example)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"the model does not take the example: {error}") from error
    if not any(True for _ in tensors_in(out)):
        raise UsageError(
            f"the model returns a {type(out).__name__} without a tensor; its outputs must be "
            "tensors, or tuples, dicts or dataclasses of them"
        )
    tracer.block(out, "output of the network")
    return tracer.trace


def _followed(tracer: Tracer, path: str, module: nn.Module) -> list[Any]:
    """Let the tracer know while a module runs."""

    def enter(module: nn.Module, args: object) -> None:
        tracer.path.append((path, module))

    def leave(module: nn.Module, args: object, out: object) -> None:
        tracer.path.pop()

    return [
        module.register_forward_pre_hook(enter, prepend=True),
        module.register_forward_hook(leave, always_call=True),
    ]
