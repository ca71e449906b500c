"""One rung in whatever loop: gates learn through the cut, then it is made and held.

All of it happens in one training, so that rates and batches are those of any network that is
trained for as long beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch.optim import Optimizer

from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.training import Pruning


@contextmanager
def descending(
    gates: Gates,
    phase: GatePhase,
    keep: float,
    *,
    steps: int,
    axes: Mapping[str, int | None],
    among: Masks | None = None,
    any_decay: bool = False,
) -> Iterator[tuple[Pruning, list[Masks]]]:
    """Let gates learn for some steps of whatever loop, then cut, and hold the masks.

    They learn through cuts of this very keep ratio: steps through deeper ones prepare the rungs
    below, and cost this one more than that is worth (docs/lab/ladder.md).

    Args:
        gates: attached to the model that the loop trains.
        phase: how they learn, but for the ratios that it draws.
        keep: of the rung, in (0, 1].
        steps: of the optimizer, through the cut; if the loop has fewer, it is cut at the end.
        axes: as in `select`.
        among: what was cut before and stays so.
        any_decay: as in `learning`.

    Returns:
        What the loop opens around its steps; and a list that has the masks when the block ends.

    Raises:
        UsageError: as `learning` and `holding` do.
        BudgetError: the floors make a ratio impossible.
    """
    budget = phase.budget(keep)
    with ExitStack() as stack:
        learned = stack.enter_context(
            learning(
                gates, phase, axes=axes, drawn=lambda step: budget, among=among, any_decay=any_decay
            )
        )
        made: list[Masks] = []
        held: list[Pruning] = []

        def cut() -> None:
            stack.close()  # no gate learns from here on
            made.append(select(gates.scores(), budget, axes=axes, among=among))
            held.append(stack.enter_context(holding(gates.model, made[0])))

        def pruning(optimizer: Optimizer) -> AbstractContextManager[object]:
            if not made and learned.steps >= steps:
                cut()
            return (held[0] if held else learned)(optimizer)

        yield pruning, made
        if not made:
            cut()
