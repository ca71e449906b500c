"""What a spec comes to: stages that train a network, trials that cut one and measure it.

Groups of them form a graph: a group is done by one worker, item by item, and begins when the
stages that it comes after are done. Whatever the order in which groups are done, and wherever,
their numbers are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secateur.study.options import LADDER, Options
from secateur.training import Epoch

START = "start"
"""The network before anything is cut, as a stage and as the criterion of its trials."""
UNCUT = "uncut"
"""The start, trained on with all weights: for as long as a rung and all above it, or a trunk."""
GATE = "gate"
AS_SMALL = "smaller"
"""A dense network of fewer channels, of as many weights as are kept."""
AS_FAST = "as-fast"
"""A dense network of fewer channels, as fast as the compiled cut one: its width is measured."""
SMALLER = (AS_SMALL, AS_FAST)
AS_TRAINED = (START, UNCUT, AS_SMALL)
"""What is measured as it was trained, also where what is shipped is an int8 file."""
WHOLE = (START, UNCUT, *SMALLER)
"""What is measured and not cut."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One training phase of one seed; leaves a checkpoint.

    start: all weights, no penalty. A criterion: on a ladder, its network after the rung of a keep
    ratio; or the trunk of gates. uncut: the same epochs, rates, batches and teacher with all
    weights. smaller, as-fast: a network of fewer channels, trained as the start and then as long
    as the rungs down to a keep ratio.
    """

    seed: int
    name: str
    keep: float = 1.0

    @property
    def id(self) -> str:
        """Unique in a study; names its files."""
        rung = "" if self.keep == 1 else f"_rung-{_written(self.keep)}"
        return f"seed-{self.seed}_{self.name}{rung}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One network and its measurement.

    Of uncut networks the keep ratio is that of the rung they were trained down to, or 1.
    """

    seed: int
    criterion: str
    keep: float
    recovery: str

    @property
    def id(self) -> str:
        """Unique in a study; names its file."""
        return f"seed-{self.seed}_{self.criterion}_keep-{_written(self.keep)}_{self.recovery}"


Item = Stage | Trial
"""What a group consists of."""


@dataclass(frozen=True, slots=True)
class Group:
    """Items that one worker does one after the other, and the stages that they come after."""

    items: tuple[Item, ...]
    after: tuple[Stage, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """What a study tells its observer.

    `omitted` is an item whose stage failed, `lost` one whose worker was lost: it begins again.
    """

    kind: Literal["found", "begin", "epoch", "done", "failed", "omitted", "lost"]
    item: Item
    record: Mapping[str, Any] | None = None
    epoch: Epoch | None = None


Observer = Callable[[Event], object]


def seed_for(item: Item, purpose: str) -> int:
    """Return a seed of its own for each purpose of an item's seed, equal on every machine."""
    digest = hashlib.sha256(f"{item.seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def groups(options: Options, seeds: tuple[int, ...], *, matched: bool = False) -> tuple[Group, ...]:
    """Return everything a study does; each group comes after those that it needs.

    Args:
        options: of the study.
        seeds: of the study.
        matched: the width is known of a dense network that is as fast as the cut one, so that it
            can be trained. Its groups come last: the places of the others do not depend on it.
    """
    found = [group for seed in seeds for group in _of_seed(options, seed)]
    planned = sorted(found, key=lambda group: bool(group.after))  # the starts come first
    if matched and options.smaller:
        planned += [_dense(options, seed, AS_FAST) for seed in seeds]
    return tuple(planned)


def items(options: Options, seeds: tuple[int, ...], *, matched: bool = False) -> Iterator[Item]:
    """Yield every item of `groups`, in order: each comes after what it needs."""
    for group in groups(options, seeds, matched=matched):
        yield from group.items


def trials(options: Options, seeds: tuple[int, ...], *, matched: bool = False) -> tuple[Trial, ...]:
    """Return every trial of `groups`."""
    planned = items(options, seeds, matched=matched)
    return tuple(item for item in planned if isinstance(item, Trial))


def claimed(options: Options, seed: int, keep: float) -> Trial:
    """Return the trial of the primary curve at a rung, or of the first arm, where it has none."""
    pair = options.claim if keep in options.cuts(*options.claim) else (options.arms[0], LADDER)
    return Trial(seed, pair[0], keep, pair[1])


def before(options: Options, stage: Stage) -> Stage | None:
    """Return the stage whose network a stage starts from; None if from a fresh one."""
    if stage.name == START or stage.name in SMALLER:
        return None
    above = [keep for keep in options.rungs if keep > stage.keep]
    return Stage(stage.seed, stage.name, above[-1]) if above else Stage(stage.seed, START)


def source(options: Options, trial: Trial) -> Stage:
    """Return the stage whose network a trial measures, cuts, or cuts on."""
    seed, criterion, keep = trial.seed, trial.criterion, trial.keep
    if criterion in SMALLER:
        return Stage(seed, criterion, keep)
    if criterion == START:
        return Stage(seed, START)
    if trial.recovery == LADDER:
        passed = [rung for rung in options.rungs if rung >= keep]
        return Stage(seed, criterion, passed[-1]) if passed else Stage(seed, START)
    if options.down:
        return Stage(seed, START)
    return Stage(seed, GATE if criterion == GATE else UNCUT)


def order(options: Options, trial: Trial) -> Stage:
    """Return the stage that says what a trial keeps first: its source, but above a ladder.

    There it is the first rung's: what that keeps comes first, the rest by magnitude.
    """
    if trial.recovery == LADDER and trial.keep > options.rungs[0]:
        return Stage(trial.seed, trial.criterion, options.rungs[0])
    return source(options, trial)


def reference(options: Options, trial: Trial) -> Trial | None:
    """Return the uncut network that had exactly as much training as a trial's; None for it."""
    seed, repair = trial.seed, "batchnorm" if trial.recovery == "reconstruct" else trial.recovery
    if trial.criterion in (START, UNCUT):
        return None
    if trial.recovery == LADDER:
        if trial.keep in options.rungs:
            return Trial(seed, UNCUT, trial.keep, LADDER)
        return Trial(seed, START, 1.0, "batchnorm")
    return Trial(seed, START if options.down else UNCUT, 1.0, repair)


def needs(options: Options, item: Item) -> frozenset[Stage]:
    """Return the stages without which an item cannot be done."""
    if isinstance(item, Trial):
        return frozenset((source(options, item), order(options, item)))
    return frozenset(() if item.name == START else (Stage(item.seed, START),)) | frozenset(
        filter(None, (before(options, item),))
    )


def epochs(options: Options, item: Item) -> float:
    """Return how many epochs an item trains; of a smaller network, all of them."""
    if isinstance(item, Trial):
        return 0.0
    if item.name == START:
        return float(options.epochs)
    if item.name in SMALLER:
        return options.epochs + down_to(options, item.keep)
    return options.epochs_of(item.keep) if options.down else options.gate_epochs


def down_to(options: Options, keep: float) -> float:
    """Return the epochs of all rungs to a keep ratio."""
    return sum(options.epochs_of(rung) for rung in options.rungs if rung >= keep)


def _of_seed(o: Options, seed: int) -> Iterator[Group]:
    start = Stage(seed, START)
    repairs = [r for r in o.recoveries if r in ("none", "batchnorm")]
    whole = tuple(Trial(seed, START, 1.0, repair) for repair in repairs)
    yield Group((start, *whole))
    if o.down:
        yield from _down(o, seed)
        yield from (Group(cuts, (start,)) for c in o.criteria if (cuts := tuple(_cuts(o, seed, c))))
        return
    uncut = Stage(seed, UNCUT)
    others = [trial for c in o.criteria if c != GATE for trial in _cuts(o, seed, c)]
    yield Group((uncut, *(Trial(seed, UNCUT, 1.0, r) for r in repairs), *others), (start,))
    if GATE in o.criteria:
        yield Group((Stage(seed, GATE), *_cuts(o, seed, GATE)), (start,))


def _down(o: Options, seed: int) -> Iterator[Group]:
    """Yield the rungs of all arms, one after the other, and the smaller network."""
    after: tuple[Stage, ...] = (Stage(seed, START),)
    names = (UNCUT, *o.arms) if o.arms else ()
    for rung in o.rungs if names else ():
        stages = tuple(Stage(seed, name, rung) for name in names)
        upper = [keep for keep in o.keep if keep > o.rungs[0]] if rung == o.rungs[0] else []
        trials = [Trial(seed, name, rung, LADDER) for name in names]
        trials += [Trial(seed, arm, keep, LADDER) for arm in o.arms for keep in upper]
        yield Group((*stages, *trials), after)
        after = stages
    if o.smaller:
        yield _dense(o, seed, AS_SMALL)


def _dense(o: Options, seed: int, name: str) -> Group:
    """Return the group of a smaller dense network."""
    assert o.smaller
    stage = Stage(seed, name, o.smaller)
    return Group((stage, Trial(seed, name, o.smaller, LADDER)), (Stage(seed, START),))


def _cuts(o: Options, seed: int, criterion: str) -> Iterator[Trial]:
    """Yield the cuts that are not trained afterwards."""
    for recovery in o.recoveries:
        if recovery != LADDER:
            for keep in o.cuts(criterion, recovery):
                yield Trial(seed, criterion, keep, recovery)


def _written(ratio: float) -> str:
    """Write a keep ratio in short, but never two of them alike."""
    short = f"{ratio:g}"
    return short if float(short) == ratio else repr(float(ratio))
