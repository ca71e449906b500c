"""Fake quantisation: numbers rounded as 8 bit stores them, and gradients as if they were not.

A module that takes part has a hook, which rounds what it reads, its weight, or what it gives. The
straight-through gradient (Y. Bengio et al. 2013, arXiv:1308.3432) is 1 where a number is within
its range, and 0 where it is cut off. All of this is float32, under autocast too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.quantization.ranges import LARGEST, SMALLEST
from secateur.quantization.weights import MOST

HORIZON = 100
"""Batches over which the ends of a range are averaged: all of them at first, then exponentially."""


class _Straight(torch.autograd.Function):
    """What `straight` gives, with the gradient of clamp alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, zero: Tensor, least: float, most: float
    ) -> Tensor:
        whole = (x.float() / steps).round_().add_(zero)  # float32, whatever x is
        cut = whole.clamp(least, most)
        ctx.save_for_backward(whole == cut)
        return cut.sub_(zero).mul_(steps).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (within,) = ctx.saved_tensors
        return torch.where(within, gradients[0], 0), None, None, None, None


def straight(x: Tensor, steps: Tensor, zero: Tensor, least: float, most: float) -> Tensor:
    """Return (clamp(round(x / steps) + zero, least, most) - zero) · steps, in the dtype of x.

    Args:
        x: of any dtype of floats.
        steps: float32, positive, of a shape that broadcasts.
        zero: float32 [], a whole number. What is NaN in x, steps or zero stays so.
        least, most: whole numbers.
    """
    with torch.autocast(x.device.type, enabled=False):
        rounded: Tensor = _Straight.apply(x, steps, zero, least, most)  # type: ignore[no-untyped-call]
        return rounded


def rounded_weight(weight: Tensor) -> Tensor:
    """Return weights as int8 stores them, one step for each output (axis 0); zeros stay zeros."""
    with torch.autocast(weight.device.type, enabled=False):
        largest = weight.detach().float().abs().flatten(1).amax(1)
        steps = torch.where(largest > 0, (largest / MOST).clamp(SMALLEST, LARGEST), 1.0)
        steps = steps.reshape(-1, *[1] * (weight.dim() - 1))
        return straight(weight, steps, torch.zeros((), device=weight.device), -MOST, MOST)


@dataclass
class Value:
    """The ends of one value's numbers, averaged over batches.

    Attributes:
        ends: float32 [2], the least and the greatest number.
        batches: float32 [], how many they are averaged over; 0 before the first. No int, for which
            `torch.compile` would compile every step anew.
    """

    ends: Tensor = field(default_factory=lambda: torch.zeros(2))
    batches: Tensor = field(default_factory=lambda: torch.zeros(()))

    @torch.no_grad()
    def follow(self, x: Tensor) -> None:
        """Take in a batch."""
        if x.numel():
            new = _ends(x)
            old = self.ends.to(new.device)
            self.batches = self.batches.to(new.device) + 1
            self.ends = old + (new - old) / self.batches.clamp(max=HORIZON)

    @torch.no_grad()
    def widen(self, x: Tensor) -> None:
        """Hold all of a batch, too; all that was held so counts as one."""
        if x.numel():
            new = _ends(x)
            old = self.ends.to(new.device) if self.batches else new
            low, high = torch.minimum(old[0], new[0]), torch.maximum(old[1], new[1])
            self.ends, self.batches = torch.stack([low, high]), torch.ones((), device=new.device)


def _ends(x: Tensor) -> Tensor:
    """Return the least and the greatest number, float32 [2]."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)  # aminmax would copy it into that order
    return torch.stack(torch.aminmax(x.detach())).float()


@dataclass
class Range:
    """One scale of 8 bit, and the values that make its range."""

    values: dict[str, Value] = field(default_factory=dict)

    def ends(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest number, 0 among them."""
        both = torch.stack([value.ends.to(device) for value in self.values.values()])
        return both[:, 0].amin().clamp(max=0), both[:, 1].amax().clamp(min=0)

    def rounded(self, x: Tensor) -> Tensor:
        """Return a value of this scale as uint8 stores it; as `ranges.scale_of` and `Scale`."""
        with torch.autocast(x.device.type, enabled=False):
            low, high = self.ends(x.device)
            if x.device.type != "mps":  # which has no float64
                low, high = low.double(), high.double()
            width = high - low
            steps = torch.where(width == 0, 1.0, (width / 255).clamp(SMALLEST, LARGEST)).float()
            zero = torch.round(-low / steps.to(low.dtype)).clamp(0, 255).float()
            return straight(x, steps, zero, 0, 255)


@dataclass
class Trained:
    """What all hooks of a model share.

    Attributes:
        layers: layer in 8 bit of the exported network → name of the module that it is; "" where
            it is none, but a pattern that 8 bit stores exactly.
        ranges: value of the exported network → its range.
        unseen: values that the exported network rounds, and training does not.
        observing: ranges widen, and nothing is rounded.
        paused: hooks do nothing.
    """

    layers: dict[str, str]
    ranges: dict[str, Range]
    unseen: tuple[str, ...]
    observing: bool = False
    paused: bool = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let the model compute in float inside the block."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False


@dataclass(eq=False)
class Hook:
    """What a module's input, or its output, is rounded to.

    Attributes:
        trained: what all hooks share.
        range: of what is rounded.
        values: of each call in a pass; None where another hook tracks that value.
        calls: how many of the pass there were.
    """

    trained: Trained
    range: Range
    values: list[Value | None]
    calls: int = 0

    def rounded(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the value of a call, rounded; its range follows it in training."""
        again = _again()
        value = self.values[self.calls]
        if len(self.values) > 1 and not again:  # which of the calls is run again is not known
            self.calls = (self.calls + 1) % len(self.values)
        if self.trained.observing:
            if value is not None:
                value.widen(x)
            return x
        if value is not None and training and not again:
            value.follow(x)
        return self.range.rounded(x)


def _again() -> bool:
    """Whether a pass is run again for its gradients (activation checkpointing), as it was."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class Before(Hook):
    """Rounds what a layer reads, and lets it see its weight rounded."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Take the place of the arguments of `forward`."""
        if self.trained.paused:
            return args, kwargs
        if args:
            args = (self.rounded(args[0], training=module.training), *args[1:])
        else:
            x = self.rounded(kwargs["input"], training=module.training)
            kwargs = {**kwargs, "input": x}
        if not self.trained.observing:
            # an attribute hides the parameter, which stays what it is for everybody else
            module.__dict__["weight"] = rounded_weight(module._parameters["weight"])  # type: ignore[arg-type]
        return args, kwargs


class After(Hook):
    """Rounds what a module gives."""

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Take the place of the output of `forward`."""
        return output if self.trained.paused else self.rounded(output, training=module.training)


@dataclass(eq=False)
class Begin:
    """Counts the calls of a pass from the first again: the pass before may have failed half-way."""

    hooks: list[Hook]

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Stand before a pass of the model."""
        if not _again():
            for hook in self.hooks:
                hook.calls = 0


class Uncover:
    """Shows a layer's own weight again after each call, whether it failed or not."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forget the rounded weight."""
        module.__dict__.pop("weight", None)


def _forget() -> None:
    """Drop all that torch has compiled: it does not look whether hooks have come or gone."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def attach(model: nn.Module, before: Mapping[str, Before], after: Mapping[str, After]) -> None:
    """Give modules their hooks, by name."""
    _forget()
    several = [hook for hook in (*before.values(), *after.values()) if len(hook.values) > 1]
    if several:
        model.register_forward_pre_hook(Begin(several), prepend=True)
    for name, hook in before.items():
        module = model.get_submodule(name)
        module.register_forward_pre_hook(hook, with_kwargs=True)
        module.register_forward_hook(Uncover(), always_call=True)
    for name, last in after.items():
        model.get_submodule(name).register_forward_hook(last)


def hooks(model: nn.Module) -> Iterator[tuple[nn.Module, dict[int, Any], int, Any]]:
    """Yield every hook of a model that is from here: its module, the dict it is in, its key."""
    for module in model.modules():
        for found in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(found.items()):
                if isinstance(hook, (Hook, Begin, Uncover)):
                    yield module, found, key, hook


def trained_of(model: nn.Module) -> Trained | None:
    """Return what the hooks of a model share; None where it has none."""
    kinds: Iterable[Any] = (hook for *_, hook in hooks(model))
    return next((hook.trained for hook in kinds if isinstance(hook, Hook)), None)


def detach(model: nn.Module) -> None:
    """Take all hooks away."""
    _forget()
    for module, found, key, _ in list(hooks(model)):
        del found[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
        module._forward_hooks_always_called.pop(key, None)
        module._forward_hooks_with_kwargs.pop(key, None)
