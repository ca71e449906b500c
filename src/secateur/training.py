"""The one training loop: SGD or AdamW, one-cycle rate, bf16 where it helps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from secateur.arguments import FUNCTION, SEED, Wanted, a, checked
from secateur.errors import TrainingError, UsageError, refuse_wrong, whole
from secateur.machine import bf16
from secateur.model.inputs import Inputs, run

MOST_EPOCHS = 1_000_000
LARGEST_BATCH = 10**9  # examples; more than any memory holds
ADAM_RATE, ADAM_DECAY = 1e-3, 0.01  # torch's own
SECOND_MOMENT = 0.999  # of AdamW: what its mean of squared gradients keeps from step to step
CHECK_EVERY = 32  # steps between two looks at the gradient's health: one device sync each


class Data(Protocol):
    """What training, recovery and measuring ask of a data set; batches lie on its device."""

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return how many batches `epoch` yields."""

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Inputs, Any]]:
        """Yield one shuffled, augmented pass over the training data: inputs and targets."""

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Inputs]:
        """Yield `count` training inputs (all, if fewer) in batches, augmented as in training."""

    def evaluation(
        self, split: Literal["validation", "test"], batch_size: int = ...
    ) -> Iterator[tuple[Inputs, Any]]:
        """Yield all of a held-out split, in order and as it is."""


@checked()
@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: everything that the loop is told, apart from the model, data and loss."""

    epochs: int
    batch_size: int = 128
    rate: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Nesterov's; of AdamW what its mean of gradients keeps from step to step."""
    weight_decay: float = 5e-4
    schedule: Literal["triangular", "cosine"] = "triangular"
    warmup: float = 0.25
    """Fraction of all steps in which the rate rises linearly from 0 to its peak."""
    precision: Literal["auto", "fp32"] = "auto"
    """auto: bf16 autocast where the machine computes in it, fp32 elsewhere."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd, which suits convolutions, or adamw, which suits transformers: see `Recipe.adamw`."""

    @classmethod
    def adamw(cls, epochs: int, **others: Any) -> Recipe:
        """Return a recipe of AdamW, with a rate of 0.001 and a weight decay of 0.01 if not given.

        I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101.

        Args:
            epochs: as of `Recipe`.
            others: its other fields, apart from `optimizer`.

        Raises:
            UsageError: as `Recipe`.
        """
        usual = {"rate": ADAM_RATE, "weight_decay": ADAM_DECAY}
        return cls(epochs, **{**usual, **others}, optimizer="adamw")

    def __post_init__(self) -> None:
        refuse_wrong(
            self,
            (
                "epochs",
                lambda v: whole(v) and 1 <= v <= MOST_EPOCHS,
                f"at least 1, a whole number, and at most {MOST_EPOCHS:,}",
            ),
            (
                "batch_size",
                lambda v: whole(v) and 1 <= v <= LARGEST_BATCH,
                f"at least 1, a whole number, and at most {LARGEST_BATCH:,}",
            ),
            ("rate", lambda v: 0 < v < math.inf, "positive"),
            ("momentum", lambda v: 0 < v < 1, "in (0, 1), as Nesterov's needs it"),
            ("weight_decay", lambda v: 0 <= v < math.inf, "zero or positive"),
            ("schedule", lambda v: v in ("triangular", "cosine"), "triangular or cosine"),
            ("warmup", lambda v: 0 <= v < 1, "in [0, 1)"),
            ("precision", lambda v: v in ("auto", "fp32"), "auto or fp32"),
            ("optimizer", lambda v: v in ("sgd", "adamw"), "sgd or adamw"),
        )
        if self.optimizer == "adamw" and self.rate >= 0.1:  # such as the default, of SGD
            raise UsageError(
                f"rate is {self.rate:g}, but AdamW moves every weight by about its rate in a step; "
                f"give one such as {ADAM_RATE:g}, or take Recipe.adamw({self.epochs})"
            )

    def rate_at(self, progress: float) -> float:
        """Return the learning rate when `progress`, in [0, 1), of all steps are done."""
        if progress < self.warmup:
            return self.rate * progress / self.warmup
        rest = (progress - self.warmup) / (1 - self.warmup)
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * rest)) / 2
        return self.rate * (1 - rest)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch of training came to."""

    epoch: int
    """Counts from 1."""
    loss: float
    """Mean training loss over the epoch's steps."""
    rate: float
    """Learning rate of its last step."""
    seconds: float


Pruning = Callable[[torch.optim.Optimizer], AbstractContextManager[object]]
"""What a loop opens around forward and backward of every step, given its optimizer."""


def unpruned(optimizer: torch.optim.Optimizer) -> AbstractContextManager[object]:
    """Prune nothing, in a loop that asks at every step."""
    return nullcontext()


def in_float32(outputs: Any) -> Any:
    """Return a tensor of outputs as float32, and anything else as it is."""
    return outputs.float() if isinstance(outputs, Tensor) else outputs


def precision_of(recipe: Recipe, device: torch.device) -> str:
    """Return the arithmetic a recipe gets on a device, as records state it."""
    return "bf16 autocast" if recipe.precision == "auto" and bf16(device) else "fp32"


DATA = Wanted(
    lambda v: callable(v.batches_per_epoch) and callable(v.epoch),
    "data that train takes; secateur.LoaderData(...) makes them of a DataLoader or a list of "
    "batches",
)


@checked(
    model=a(nn.Module, "a torch module"),
    data=DATA,
    recipe=a(Recipe, "a Recipe, such as Recipe(epochs=1)"),
    loss=FUNCTION,
    seed=SEED,
    pruning=FUNCTION,
    watch=FUNCTION,
)
def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    loss: Callable[[Tensor, Any], Tensor],
    *,
    seed: int,
    pruning: Pruning = unpruned,
    watch: Callable[[Epoch], object] = lambda epoch: None,
) -> tuple[Epoch, ...]:
    """Train a model in place.

    Args:
        model: on the data's device.
        data: its `epoch` is asked once per epoch, with a generator made of `seed` and the
            epoch's number, so that the same seed gives the same batches.
        recipe: epochs, optimizer, rates and precision.
        loss: (outputs as float32, targets) → scalar; outputs that are no tensor come as they are.
        seed: of shuffling and augmentation; dropout takes torch's global generator, which is
            seeded with it too.
        pruning: given the optimizer, the context that forward and backward of each step run in:
            there gates learn through the cut, or masks are held.
        watch: told of each finished epoch.

    Raises:
        UsageError: the loss returns no scalar tensor that depends on what is trained.
        TrainingError: a gradient was not finite; names the step. The model is then of no use.
    """
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    autocast = precision_of(recipe, device) != "fp32"
    own: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    optimizer = _optimizer(own, recipe)
    steps = data.batches_per_epoch(recipe.batch_size)
    health = _Health(device)
    log: list[Epoch] = []
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        total = torch.zeros((), device=device)
        rate = 0.0
        model.train()
        for index, (inputs, targets) in enumerate(data.epoch(recipe.batch_size, generator)):
            step = epoch * steps + index
            rate = recipe.rate_at(step / (steps * recipe.epochs))
            with pruning(optimizer):
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    outputs = run(model, inputs)
                value = loss(in_float32(outputs), targets)
                _refuse_no_loss(value)
                value.backward()  # type: ignore[no-untyped-call]
            health.look(step, own)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += value.detach()
        health.report()
        seconds = time.perf_counter() - start
        log.append(Epoch(epoch + 1, total.item() / steps, rate, seconds))
        watch(log[-1])
    return tuple(log)


def _optimizer(parameters: Sequence[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    rate, momentum, decay = recipe.rate, recipe.momentum, recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, (momentum, SECOND_MOMENT), weight_decay=decay)
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=True)


def _refuse_no_loss(value: object) -> None:
    if not isinstance(value, Tensor):
        what = f"{value!r:.80}" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
    elif value.dim():
        what = f"a tensor {list(value.shape)}"
    elif not value.requires_grad:
        what = "a tensor without gradients"
    else:
        return
    raise UsageError(
        f"the loss gave {what}, but must return a scalar tensor with gradients, the mean over the "
        "batch"
    )


class _Health:
    """Remembers the first step with a gradient that is not finite, with few device syncs."""

    def __init__(self, device: torch.device) -> None:
        self._first = torch.full((), -1, device=device, dtype=torch.long)

    def look(self, step: int, parameters: Sequence[Tensor]) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        bad = ~torch.isfinite(norm) & (self._first < 0)
        self._first = torch.where(bad, step, self._first)
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            self.report()

    def report(self) -> None:
        if (step := int(self._first)) >= 0:
            raise TrainingError(
                f"training stopped: the gradient of step {step} is not finite (NaN or infinite); "
                "lower the learning rate, or look for invalid values in the data"
            )
