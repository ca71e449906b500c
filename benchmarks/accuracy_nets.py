"""The nets of benchmarks/accuracy.py: where each starts, how it trains, what it is to reach."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from secateur.data.augmentation import Augmentation
from secateur.errors import UsageError
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.ladder.descent import Rung
from secateur.pruning.ladder.gradual import FEW, STEP
from secateur.pruning.recovery.finetune import SHORT
from secateur.study.options import TEACH, Options
from secateur.study.spec import Spec
from secateur.study.task import LABEL_SMOOTHING
from secateur.training import Recipe

KEEPS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
IMAGES = 4096
"""Unlabelled training images that recalibration and reconstruction may look at."""
GRADUAL = {"step": 0.8, "images": 512, "damping": 0.01, "positions": 64}
"""How `prune_gradually` goes; `images` are those on the way, the last step looks at all."""

_TRUNK = {"epochs": 8, "gate_epochs": 12, "rate": 0.1, "gate_rate": 0.05}
"""Of the figures in docs/lab, which are older than the defaults of a study."""

# What the authors of the given weights trained with; black is what their padding was.
GIVEN_MEAN, GIVEN_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GIVEN = Augmentation(pad=4, fill="black", flip=True)


@dataclass(frozen=True)
class Training:
    """One way to train from a dense network: the gate phase, or for `phase=None` a control."""

    recipe: Recipe | None
    """None: no epochs for all ratios together; gates start from the magnitude, on the rungs."""
    phase: GatePhase | None = None
    teach: float = 0.0
    """Weight of distillation from the dense network."""
    temperature: float = 4.0
    finetune: Recipe | None = None
    """How each ratio that has a goal is then trained on, from the same network, masks held."""
    follow: float = 0.0
    """Weight in that of following the network that is cut, as it is uncut; 0: as `teach`."""
    rungs: tuple[Rung, ...] = ()
    """How the network then goes down through the ratios that have a goal; each starts where the
    one above ended."""
    rung_phase: GatePhase | None = None
    """How gates learn on a rung; None: as in `phase`."""


@dataclass(frozen=True)
class Net:
    """One net of the table: where its dense network comes from, and how the rest trains."""

    net: str
    phase1: Recipe | None
    """None: the weights are given, and were trained on all training images. The rest then is too,
    and there is no validation figure: nothing can be chosen on images that a network has seen."""
    label_smoothing: float
    joint: Training
    frozen: Training
    finetune: Recipe
    descended: Training
    frozen_descended: Training
    goals: Mapping[str, Mapping[float, float]]
    """condition → keep ratio → test accuracy to reach; negative: the loss against dense."""
    follow: float = 0.0
    """As in `Training`, of the condition `finetuned`."""

    def training(self, condition: str) -> Training | None:
        """Return how a condition trains, or None for one that does not train from dense.

        "joint gate_rate=10 epochs=3" is joint with these fields of recipe, phase or training.

        Raises:
            UsageError: there is no such field, or its value is out of its range.
        """
        assert self.joint.phase is not None
        base, *changes = condition.split()
        ways = {
            "joint": self.joint,
            "fixed": replace(self.joint, phase=replace(self.joint.phase, order="fixed")),
            "control": replace(self.joint, phase=None),
            "frozen": self.frozen,
            "finetuned": replace(self.joint, finetune=self.finetune, follow=self.follow),
            "descended": self.descended,
            "descended-fixed": _by_magnitude(self.descended),
            "frozen-descended": self.frozen_descended,
        }
        if base not in ways:
            return None
        way = ways[base]
        for change in changes:
            field, _, text = change.partition("=")
            value = {field: text if text.isalpha() else json.loads(text)}
            if way.recipe is not None and field in Recipe.__dataclass_fields__:
                way = replace(way, recipe=replace(way.recipe, **value))
            elif way.phase is not None and field in GatePhase.__dataclass_fields__:
                way = replace(way, phase=replace(way.phase, **value))
            elif field in ("teach", "temperature", "follow"):
                way = replace(way, **value)
            else:
                raise UsageError(f"{condition!r}: {base} has no field {field!r}")
        return way


def _frozen_ladder(
    recipe: Recipe, phase: GatePhase, keeps: Iterable[float], **teacher: float
) -> Training:
    """Return one epoch of gates for all ratios, and three on every rung, for that ratio alone."""
    learn = replace(recipe, epochs=3)
    rungs = tuple(Rung(keep, learn=learn, settle=None, share=1.0) for keep in keeps)
    return Training(recipe, phase, rungs=rungs, **teacher)


def _by_magnitude(ladder: Training) -> Training:
    """Return a ladder's control: the same epochs and rates, but no gate learns.

    Every rung cuts by magnitude, and trains with its masks held for as long as it would have
    learned.
    """
    rungs = []
    for rung in ladder.rungs:
        first, then = rung.learn, rung.settle
        held = replace(first, epochs=first.epochs + (then.epochs if then else 0)) if first else then
        rungs.append(replace(rung, learn=None, settle=held))
    phase = replace(ladder.phase, order="fixed") if ladder.phase else None
    return replace(ladder, phase=phase, rungs=tuple(rungs), rung_phase=None)


def _study_net(net: str, goals: Mapping[float, float], **options: Any) -> Net:
    """Return a net that starts as `secateur study --gates trunk` does, with these epochs and rates.

    From the start all conditions train for as long, at the same rates: a trunk without a teacher,
    or a short one and a ladder of one epoch a rung, its cuts made before they train.
    """
    chosen = Options(gates="trunk", **{**_TRUNK, **options})
    spec = Spec(f"cifar10/{net}", {}, {}, chosen)
    recipe = replace(spec.first, epochs=round(chosen.gate_epochs), rate=chosen.gate_rate)
    short, _ = spec.second(1)
    joint = Training(recipe, spec.gate_phase)
    return Net(
        net=net,
        phase1=spec.first,
        label_smoothing=LABEL_SMOOTHING,
        joint=joint,
        frozen=replace(joint, phase=replace(spec.gate_phase, weights="frozen")),
        finetune=short,
        descended=replace(
            joint,
            recipe=replace(recipe, epochs=2),
            rungs=tuple(Rung(keep, settle=short) for keep in goals),
        ),
        frozen_descended=_frozen_ladder(
            replace(recipe, epochs=1), replace(spec.gate_phase, weights="frozen"), goals
        ),
        follow=TEACH,
        goals={"joint": goals, "finetuned": goals, "descended": goals},
    )


def _resnet18(goals: Mapping[float, float]) -> Net:
    """Return a net for a GPU, whose gate phase and ladder follow its own dense network."""
    options = {"gate_epochs": 30, "gate_rate": 0.1, "lowest_keep": 0.015}
    net = _study_net("resnet18", goals, epochs=30, batch_size=256, rate=0.2, **options)
    follow = {"teach": 0.7, "temperature": 2.0}

    def cosine(epochs: int, rate: float) -> Recipe:
        return replace(_cosine(epochs, rate), batch_size=256)

    return replace(
        net,
        joint=replace(net.joint, **follow),
        descended=Training(
            cosine(2, 0.04),
            GatePhase(lowest_keep=0.015, dense_steps=0.2, gate_rate=15.0),
            rungs=(
                Rung(0.3, settle=cosine(4, 0.06)),
                Rung(0.2, settle=cosine(4, 0.08)),
                Rung(0.1, learn=cosine(2, 0.1), settle=cosine(5, 0.1)),
                Rung(0.05, learn=cosine(2, 0.1), settle=cosine(6, 0.1)),
                Rung(0.02, learn=cosine(3, 0.1), settle=cosine(9, 0.1)),
            ),
            rung_phase=GatePhase(lowest_keep=0.015, gate_rate=3.0),
            **follow,
        ),
    )


def _cosine(epochs: int, rate: float) -> Recipe:
    return Recipe(epochs=epochs, rate=rate, schedule="cosine", warmup=0.1)


NETS: dict[str, Net] = {
    "resnet20-given": Net(
        net="resnet20",
        phase1=None,
        label_smoothing=0.0,
        joint=Training(
            _cosine(11, 0.05),
            GatePhase(lowest_keep=0.03, gate_rate=3.0),
            teach=0.7,
            temperature=2.0,
        ),
        frozen=Training(
            _cosine(10, 0.05),
            GatePhase(lowest_keep=0.03, gate_rate=1.0, weights="frozen"),
            teach=0.7,
            temperature=2.0,
        ),
        finetune=SHORT,  # four ratios: 15 epochs with joint's
        descended=Training(
            None,
            GatePhase(lowest_keep=0.03, gate_rate=10.0),
            teach=0.7,
            temperature=2.0,
            rungs=tuple(
                Rung(keep, learn=_cosine(epochs, rate), settle=None, share=1.0)
                for keep, epochs, rate in (
                    (0.3, 3, 0.015),
                    (0.2, 4, 0.015),
                    (0.1, 4, 0.015),
                    (0.05, 4, 0.02),
                )
            ),
        ),
        frozen_descended=_frozen_ladder(
            _cosine(1, 0.05),
            GatePhase(lowest_keep=0.05, gate_rate=1.0, weights="frozen"),
            (0.3, 0.2, 0.1),
            teach=0.7,
            temperature=2.0,
        ),
        goals={
            "reconstruct": {0.3: 90.4, 0.2: 88.7, 0.1: 80.0},
            "frozen": {0.3: 90.8, 0.2: 90.0, 0.1: 87.0},
            "frozen-descended": {0.3: 90.8, 0.2: 90.0, 0.1: 87.0},
            "joint": (goals := {0.3: 91.4, 0.2: 91.0, 0.1: 89.8, 0.05: 87.5}),
            "finetuned": goals,
            "descended": goals,
        },
    ),
    "convnet": _study_net("convnet", {0.3: -0.3, 0.2: -0.5, 0.1: -1.0, 0.05: -2.5}),
    "resnet18": _resnet18({0.3: -0.1, 0.2: -0.2, 0.1: -0.3, 0.05: -0.5, 0.02: -1.0}),
}


def settings_of(net: Net, condition: str) -> dict[str, Any]:
    """Return all that a condition's figures follow from, beside seed and data: JSON values."""
    settings: dict[str, Any] = {"images": IMAGES, "keep": list(KEEPS)}
    if net.phase1:
        settings["phase1"] = asdict(net.phase1)
        settings["label_smoothing"] = net.label_smoothing
    else:
        settings["trained_on"] = "all training images"
    if way := net.training(condition):
        settings |= asdict(way)
        # only where they are used, so that records of other ways stay what they are
        if not way.follow:
            del settings["follow"]
        for rung in settings["rungs"]:
            if rung.pop("reconstruct"):
                rung["reconstruct"] = {"step": STEP, "images": FEW}
    if condition == "reconstruct":
        settings["gradual"] = GRADUAL
    if condition == "self-pruning":
        assert net.joint.recipe is not None
        settings["epochs"] = net.joint.recipe.epochs
    return settings


def current(net: str, condition: str) -> str:
    """Return the digest of today's settings, which ends the names of the records that count."""
    return digest(settings_of(NETS[net], condition))


def digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
