"""What a spec comes to: stages that train a network, and trials that cut one and measure it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from secateur.study.spec import Spec
from secateur.training import Epoch

DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Stage:
    """One training phase of one seed; leaves a checkpoint.

    train: phase 1, all weights, no penalty: the dense network. gates: phase 2, from phase 1,
    through the cut. control: from phase 1 too, the same epochs, rates and batches as gates, with
    all weights; so what is cut without gates has had exactly as much training.
    """

    seed: int
    name: str

    @property
    def id(self) -> str:
        """Unique in a study; names its files."""
        return f"seed-{self.seed}_{self.name}"

    @property
    def after(self) -> Stage | None:
        """The stage whose network this one starts from."""
        return None if self.name == "train" else Stage(self.seed, "train")


@dataclass(frozen=True, slots=True)
class Trial:
    """One cut of one network and its measurement; dense is criterion `dense` at keep ratio 1."""

    seed: int
    criterion: str
    keep: float
    recovery: str

    @property
    def id(self) -> str:
        """Unique in a study; names its file."""
        short = f"{self.keep:g}"  # six digits, which two ratios may have in common
        keep = short if float(short) == self.keep else repr(float(self.keep))
        return f"seed-{self.seed}_{self.criterion}_keep-{keep}_{self.recovery}"

    @property
    def after(self) -> Stage:
        """The stage whose network is cut."""
        return Stage(self.seed, {DENSE: "train", "gate": "gates"}.get(self.criterion, "control"))


@dataclass(frozen=True, slots=True)
class Event:
    """What a study tells its observer; `omitted` is an item whose stage failed."""

    kind: Literal["found", "begin", "epoch", "done", "failed", "omitted"]
    item: Stage | Trial
    record: Mapping[str, Any] | None = None
    epoch: Epoch | None = None


Observer = Callable[[Event], object]


def seed_for(item: Stage | Trial, purpose: str) -> int:
    """Return a seed of its own for each purpose of an item's seed, equal on every machine."""
    digest = hashlib.sha256(f"{item.seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def finetuned(keep: float, finetune_from: float) -> bool:
    """Return whether a study that fine-tunes does so at a keep ratio.

    It does with the deep cuts, and with what they are compared with: dense, and what is not cut.
    To spare epochs a cut that keeps more than `finetune_from` is no trial of its own: the curve
    of this recovery there is that of `batchnorm`.
    """
    return keep == 1 or keep <= finetune_from


def epochs(spec: Spec, item: Stage | Trial) -> int:
    """Return how many epochs an item trains: a stage, and what is fine-tuned."""
    if isinstance(item, Stage):
        return spec.recipe(item.name).epochs
    trained = item.recovery == "finetune" and finetuned(item.keep, spec.options.finetune_from)
    return spec.options.finetune if trained else 0


def plan(spec: Spec) -> Iterator[Stage | Trial]:
    """Yield everything a study does, in order: each item comes after what it needs."""
    yielded: set[Stage] = set()
    for seed in spec.seeds:
        yield Stage(seed, "train")
        yield from (Trial(seed, DENSE, 1.0, recovery) for recovery in spec.recoveries)
        for criterion in spec.options.criteria:
            stage = Trial(seed, criterion, 1.0, "none").after
            if stage not in yielded:
                yielded.add(stage)
                yield stage
            for keep in spec.options.keep:
                for recovery in spec.recoveries:
                    trial = Trial(seed, criterion, keep, recovery)
                    if recovery != "finetune" or epochs(spec, trial):
                        yield trial
