"""One pass of a model on an example, watched operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from secateur.errors import UsageError
from secateur.model.inputs import Inputs, run, tensors_in
from secateur.model.passes import decomposed, hooked, refusing, undisturbed
from secateur.pruning.channels.labels import Grid, Labels, Ledger, varying

OPAQUE = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Modules whose sizes torch checks against numbers that they were made with."""


def has_fixed_sizes(module: nn.Module) -> bool:
    """Return whether a module is torch's own, whose numbers follow from its tensors."""
    return type(module).__module__.startswith("torch.nn") and not isinstance(
        module, (nn.Unflatten, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )


@dataclass(frozen=True, eq=False)
class Reading:
    """One place where channels are summed over, so that they end there."""

    channels: Grid
    """The labels of what is read, one per channel, flat."""
    weight: Grid | None
    """The labels of the reading weight's inputs, as many; None where no weight reads."""
    values: Tensor | None
    """What the first place of each channel held, float64, as many."""
    labels: Labels
    """What is known about the tensor that is read."""
    foldable: bool
    """A constant channel may be added to the layer's bias instead."""


Sizes = Sequence[int | tuple[Grid, int]]
"""For each size a grid and its dimension that has it; a number where channels do not vary."""


@dataclass(eq=False)
class Trace:
    """What one pass has shown."""

    ledger: Ledger = field(default_factory=Ledger)
    owned: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """The labels of every parameter and buffer: (name, dimension) → int64 [size]."""
    written: list[Grid] = field(default_factory=list)
    """Labels of weights' outputs: what makes a channel."""
    readings: list[Reading] = field(default_factory=list)
    seen: list[Grid] = field(default_factory=list)
    """Grids of all tensors that were seen: none may be left without channels."""
    sizes: list[tuple[str, Sizes, bool]] = field(default_factory=list)
    """Sizes that a module's own code may hold as numbers: the module's path, the sizes, and
    whether an operator was given them; else they are only what it returned."""


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
    """Carries labels from operator to operator; channels that reach one without a rule stay."""

    def __init__(self, rules: Callable[[Any, str], Rule | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules = rules
        self._known: dict[int, tuple[Tensor, Labels]] = {}
        self.path: list[tuple[str, nn.Module]] = []
        self.trace = Trace()
        self.ledger = self.trace.ledger

    def label(self, name: str, tensor: Tensor, *, weight: bool) -> None:
        """Label every dimension of a parameter or buffer."""
        grids = []
        for d, size in enumerate(tensor.shape):
            if size > 1:
                labels = self.ledger.new(size)
                self.trace.owned[name, d] = labels
                shape = [1] * tensor.dim()
                shape[d] = size
                grids.append(labels.to(tensor.device).reshape(shape))
        if grids:
            owned = Labels((), tuple(grids), zero=weight, pure=True)
            self.put(tensor, replace(owned, weight=weight, buffer=not weight))

    def labels(self, tensor: Tensor) -> Labels:
        """Return what is known about a tensor."""
        known = self._known.get(id(tensor))
        return known[1] if known else Labels(tuple(tensor.shape))

    def put(self, tensor: Tensor, labels: Labels) -> None:
        """Record what is known about a tensor; it is kept alive, so that its id stays its own."""
        if not labels.grids:
            self._known.pop(id(tensor), None)
        else:
            self._known[id(tensor)] = (tensor, replace(labels, shape=tuple(tensor.shape)))
            self.trace.seen.extend(labels.grids)

    def block(self, values: object, reason: str) -> None:
        """Record that all channels of the tensors in a structure stay, and why."""
        for tensor in tensors_in(values):
            for grid in self.labels(tensor).grids:
                self.ledger.block(grid, reason)

    def reason(self, what: str) -> str:
        """Return a reason with the path of the module that runs."""
        path = self.path[-1][0] if self.path else ""
        return f"{what} in {path}" if path else what

    def note_read(
        self,
        labels: Labels,
        channels: Grid,
        weight: Grid | None = None,
        values: Tensor | None = None,
        *,
        foldable: bool = False,
    ) -> None:
        """Record that channels are read; a weight or values of another size are left out."""
        count = channels.numel()
        self.trace.readings.append(
            Reading(
                channels.reshape(-1),
                None if weight is None or weight.numel() != count else weight.reshape(-1),
                None
                if values is None or values.numel() != count
                else values.reshape(-1).double().cpu(),
                labels,
                foldable,
            )
        )

    def note_sizes(self, parts: Sizes, *, given: bool) -> None:
        """Record sizes that the code of the module that runs may hold as numbers."""
        varying = any(not isinstance(part, int) for part in parts)
        if varying and self.path and not has_fixed_sizes(self.path[-1][1]):
            self.trace.sizes.append((self.path[-1][0], parts, given))

    def sizes(self, tensor: Tensor) -> list[int | tuple[Grid, int]]:
        """Return a tensor's sizes, each with the grid that varies along it."""
        found: list[int | tuple[Grid, int]] = list(tensor.shape)
        for grid in self.labels(tensor).grids:
            for d in varying(grid):
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
        if rule is None and not opaque:
            out = decomposed(self, func, args, kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if not any(self.labels(tensor).grids for tensor in tensors_in([args, kwargs])):
            return out
        if opaque:
            kind = f"nn.{type(opaque[1]).__name__}"
            self.block([args, kwargs], f"{opaque[0]} is an {kind}, whose sizes are fixed")
        elif rule is None:
            self.block([args, kwargs], self.reason(f"reaches aten.{name}, which has no rule"))
        else:
            rule(self, Call(func, name, args, kwargs, out))
        return out


def traced(model: nn.Module, example: Inputs, rules: Callable[[Any, str], Rule | None]) -> Trace:
    """Run a model once and return what was seen.

    Args:
        model: a copy that nobody else needs, since a model may keep things from its first pass.
        example: its inputs; small ones are enough.
        rules: operator and name → its rule.

    Raises:
        UsageError: the model does not take the example.
    """
    tracer = Tracer(rules)
    for name, parameter in model.named_parameters():
        tracer.label(name, parameter, weight=True)
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            tracer.label(name, buffer, weight=False)
    hooks = [h for path, module in model.named_modules() for h in _followed(tracer, path, module)]
    refusal = refusing("the model does not take the example")
    with hooked(hooks), refusal, undisturbed(model), torch.inference_mode(), tracer:
        out = run(model, example)
    if not any(True for _ in tensors_in(out)):
        raise UsageError(
            f"the model returns a {type(out).__name__} without a tensor; its outputs must be "
            "tensors, or tuples, dicts or dataclasses of them"
        )
    tracer.block(out, "output of the network")
    return tracer.trace


def _followed(tracer: Tracer, path: str, module: nn.Module) -> list[RemovableHandle]:
    """Return hooks that tell the tracer while a module runs."""

    def enter(module: nn.Module, args: object) -> None:
        tracer.path.append((path, module))

    def leave(module: nn.Module, args: object, out: object) -> None:
        tracer.path.pop()

    return [
        module.register_forward_pre_hook(enter, prepend=True),
        module.register_forward_hook(leave, always_call=True),
    ]
