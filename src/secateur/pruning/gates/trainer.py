"""What gate phase and fine-tuning ask of a training loop: `secateur.train`, or one like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from secateur.training import Data, Epoch, Recipe


class Trainer(Protocol):
    """A training loop with places to cut in; `secateur.train` is one, and says what each means."""

    def __call__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        loss: Callable[[Tensor, Any], Tensor],
        *,
        seed: int,
        around_step: Callable[[int], AbstractContextManager[object]] | None = None,
        after_step: Callable[[], object] | None = None,
        extra: Sequence[Tensor] = (),
        extra_rate: float = 1.0,
        watch: Callable[[Epoch], object] = ...,
    ) -> tuple[Epoch, ...]:
        """Train the model in place and return how each epoch went."""
