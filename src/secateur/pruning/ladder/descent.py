"""Down a ladder of keep ratios: each rung starts from the network that the rung above made.

A network that is cut a little and trained, cut a little more and trained again, ends better than
one that is cut at once and trained for as long, since every training starts near to what it is to
become; and one way down serves every ratio on it. Sources: iterative magnitude pruning (Han et
al. 2015, arXiv:1506.02626) and gradual pruning (Zhu & Gupta 2017, arXiv:1710.01878), here with
learned gates: on a rung that learns, some steps run through deeper cuts, so that the order of what
is to go next is known when it goes. A rung that reconstructs is cut in small steps, and the kept
weights are solved again after each, towards the network at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from secateur.arguments import FUNCTION, SEED, Wanted, a, checked, refuse
from secateur.errors import UsageError, refuse_wrong
from secateur.model.copying import copied
from secateur.pruning.calibration import Calibration
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.ladder.gradual import FEW, STEP
from secateur.pruning.parameters import axes_of
from secateur.pruning.recovery.finetune import SHORT, finetune
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.patterns import parse
from secateur.pruning.selecting.selection import select
from secateur.training import DATA, Data, Epoch, Recipe, train

Watch = Callable[[Epoch], object]
Loss = Callable[[Tensor, Any], Tensor]


@checked(learn=a(Recipe, "a Recipe or None"), settle=a((Recipe, type(None)), "a Recipe or None"))
@dataclass(frozen=True, slots=True)
class Rung:
    """One keep ratio on the way down, and how the network is trained there.

    First it learns through cuts, if `learn` is given, then it is cut, and trained with its masks
    held, if `settle` is given.

    Raises:
        UsageError: a field is out of its range, or a rung both learns and reconstructs.
    """

    keep: float
    learn: Recipe | None = None
    settle: Recipe | None = SHORT
    share: float = 0.5
    """Fraction of the learning steps, in (0, 1], that keep this ratio; the others keep less."""
    reconstruct: bool = False
    """Cut in small steps and solve the kept weights again after each, before it settles, so that
    every layer gives what it gave at the top: for rungs near to it, which then have little left
    to win back. Linear layers and convolutions are solved; others are only cut."""

    def __post_init__(self) -> None:
        Budget(self.keep)
        refuse_wrong(
            self,
            ("share", lambda v: 0 < v <= 1, "in (0, 1]"),
            ("reconstruct", lambda v: isinstance(v, bool), "True or False"),
        )
        if self.learn and self.reconstruct:
            raise UsageError(
                "a rung that learns is trained through its cut already, so that there is nothing "
                "to reconstruct; give learn or reconstruct=True, or a rung for each"
            )


@checked(
    model=a(nn.Module, "a torch module"),
    rungs=Wanted(
        lambda v: isinstance(v, (tuple, list)) and all(isinstance(r, Rung) for r in v),
        "a list of Rungs, such as [Rung(0.3), Rung(0.1)]",
    ),
    loss=Wanted(lambda v: v is None or callable(v), "a function"),  # not every rung trains
    phase=a(GatePhase, "a GatePhase"),
    seed=SEED,
    watch=FUNCTION,
)
def descend(
    model: nn.Module,
    rungs: Sequence[Rung],
    data: Data,
    loss: Loss,
    *,
    phase: GatePhase | None = None,
    calibration: Calibration | None = None,
    seed: int,
    watch: Watch = lambda epoch: None,
) -> Iterator[tuple[Rung, Masks]]:
    """Cut and train a network with gates, in place, from rung to rung.

    What is cut never comes back, so the masks are nested; and when the last rung is done, the
    gates give the masks of every rung again: one order for all ratios. After each rung this
    yields, with the network as it is there: copy what is to be kept, and recalibrate its batch
    norms.

    With `phase.weights` "frozen" the network's weights stay, but for the scales and shifts of its
    norms: rungs then only learn (give them `settle=None`), and nothing is set to zero; apply the
    masks to a copy.

    Args:
        model: trained, with gates, which `learn_gates` has taught an order (or `Gates.attach`
            alone, for that of the magnitude).
        rungs: keep ratios, falling.
        data: as for `secateur.train`, whose errors are these too. With data and loss of
            `distilled` the network follows the dense one.
        loss: (outputs as float32, targets) → scalar.
        phase: its gates' rate, lowest keep ratio, scope, floor, pattern, decay, and what moves.
        calibration: unlabelled inputs, for rungs that reconstruct; these need a copy of the
            network at the top in memory.
        seed: of shuffling and augmentation.
        watch: told of each finished epoch.

    Raises:
        UsageError: there are no rungs, the model has no gates, keep ratios do not fall, a rung
            learns with the order fixed, settles or reconstructs with its weights frozen, or
            reconstructs without a calibration set that fits the model.
        BudgetError: floors make a ratio impossible. Both before anything is changed.
    """
    if not rungs:
        raise UsageError("there are no rungs to descend; give at least one Rung(keep)")
    if any(rung.learn or rung.settle for rung in rungs):
        refuse("data", data, DATA)
    phase = phase or GatePhase()
    gates = Gates.of(model)
    axes = axes_of(model, gates.names)
    for above, below in pairwise(rungs):
        if below.keep >= above.keep:
            raise UsageError(
                f"keep ratios must fall from rung to rung, but {below.keep:g} follows "
                f"{above.keep:g}"
            )
    for rung in rungs:
        select(gates.scores(), phase.budget(rung.keep), axes=axes)
        if rung.learn and phase.order == "fixed":
            raise UsageError("a rung cannot learn an order that is fixed; leave out learn")
        if rung.settle and phase.weights == "frozen":
            raise UsageError("weights that are frozen cannot settle; give rungs settle=None")
        if rung.reconstruct and phase.weights == "frozen":
            raise UsageError("weights that are frozen cannot be reconstructed")
    if any(rung.reconstruct for rung in rungs):
        if not isinstance(calibration, Calibration):
            raise UsageError(
                "a rung reconstructs, but calibration is "
                f"{'missing' if calibration is None else f'of type {type(calibration).__name__}'}; "
                "give descend a Calibration, some thousand unlabelled inputs"
            )
        calibration.check(model)
    descent = _Descent(model, gates, axes, data, loss, phase, calibration, watch)
    return descent.down(rungs, seed)


@dataclass(frozen=True, eq=False)
class _Descent:
    """What all rungs share."""

    model: nn.Module
    gates: Gates
    axes: Mapping[str, int | None]
    data: Data
    loss: Loss
    phase: GatePhase
    calibration: Calibration | None
    watch: Watch

    @property
    def stepwise(self) -> bool:
        """Whether the keep ratio may fall in small steps."""
        return parse(self.phase.pattern).ratio is None

    def select(self, keep: float, among: Masks | None) -> Masks:
        budget = self.phase.budget(keep)
        return select(self.gates.scores(), budget, axes=self.axes, among=among)

    def down(self, rungs: Sequence[Rung], seed: int) -> Iterator[tuple[Rung, Masks]]:
        top = copied(self.model) if any(rung.reconstruct for rung in rungs) else None
        found: list[Masks] = []
        ratio = 1.0
        for number, rung in enumerate(rungs):
            above = found[-1] if found else None
            if rung.learn:
                self._learn(rung, rung.learn, above, seed + 2 * number)
            if rung.reconstruct:
                assert top is not None
                self._reconstruct(top, ratio, rung.keep, above)
            masks = self.select(rung.keep, above)
            if self.phase.weights == "joint":
                self._cut(masks)
            if rung.settle:
                finetune(
                    self.model,
                    masks,
                    self.data,
                    self.loss,
                    recipe=rung.settle,
                    seed=seed + 2 * number + 1,
                    watch=self.watch,
                )
            found.append(masks)
            for nested in found:  # from the largest, since training has moved all scores
                self.gates.demote(nested)
            ratio = rung.keep
            yield rung, masks

    def _cut(self, masks: Masks) -> None:
        """Cut the weights; what is cut keeps its rank without its weight."""
        scores = self.gates.scores()
        masks.apply(self.model)
        self.gates.become(scores)

    def _reconstruct(self, top: nn.Module, ratio: float, keep: float, masks: Masks | None) -> None:
        """Cut from one ratio to another, solving the kept weights again after every cut."""
        assert self.calibration is not None
        few = self.calibration.first(FEW)
        while ratio > keep:
            ratio = max(keep, ratio * STEP) if self.stepwise else keep
            masks = self.select(ratio, masks)
            self._cut(masks)
            reconstruct(self.model, top, masks, self.calibration if ratio == keep else few)
            self.gates.demote(masks)  # a kept weight that is small now ranks above what is cut

    def _learn(self, rung: Rung, recipe: Recipe, among: Masks | None, seed: int) -> None:
        """Train through cuts to this rung's ratio and below, among what is still there."""
        # the draw of the gate phase, with this rung in place of the dense network
        deeper = replace(
            self.phase,
            dense_steps=min(rung.share, 1 - 1e-9),
            lowest_keep=min(1.0, self.phase.lowest_keep / rung.keep),
        )
        drawn = partial(deeper.drawn, most=rung.keep)
        with learning(self.gates, self.phase, axes=self.axes, drawn=drawn, among=among) as pruning:
            train(
                self.model,
                self.data,
                recipe,
                self.loss,
                seed=seed,
                pruning=pruning,
                watch=self.watch,
            )
