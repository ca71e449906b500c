"""The plan of a study: a frozen value whose hash is its address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from secateur.arguments import all_plain, checked, plain, shown
from secateur.errors import BudgetError, UsageError, refuse_wrong, whole
from secateur.files import parse_json
from secateur.pruning.calibration import LEAST
from secateur.pruning.criteria import CRITERIA, find
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.recovery.finetune import SHORT
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.patterns import PATTERNS, parse
from secateur.study.own_training import check_training
from secateur.study.schema import LEVELS, SEEDS, check_size
from secateur.study.task import Task
from secateur.training import MOST_EPOCHS, Recipe

FORMAT = 3  # 3: the pattern; 2: in phase 2 only what a step keeps decays
FOLLOW = 0.9
"""Weight of the uncut network's outputs in fine-tuning; docs/lab/finetuning.md has its worth."""
RECOVERIES = ("none", "batchnorm", "reconstruct", "finetune")
EXAMPLES = 10**9
"""Most training examples that calibration or a criterion is asked to look at."""


_FORMS = [kind.FORM for kind in PATTERNS.values() if not kind.smaller]


def _option(default: Any, text: str) -> Any:
    """A field whose help text the command line shows."""
    return field(default=default, metadata={"help": text})


@checked()
@dataclass(frozen=True, slots=True)
class Options:
    """What a study may be told; the command line is made from these fields.

    Raises:
        UsageError: an option is out of its range; says which and what it may be.
    """

    keep: tuple[float, ...] = _option(
        (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
        "Keep ratios to cut to, in (0, 1], from most to least kept.",
    )
    seeds: int = _option(3, "How many seeds: the whole study is repeated with each.")
    criteria: tuple[str, ...] = _option(
        ("gate", "magnitude", "random"), f"Criteria that give the scores, of {', '.join(CRITERIA)}."
    )
    epochs: int = _option(8, "Epochs of phase 1, the plain training of the dense network.")
    gate_epochs: int = _option(
        12, "Epochs of phase 2 through the cut; controls train as long with all weights."
    )
    reconstruct: int = _option(
        0,
        "Unlabelled training examples from which the kept weights of each cut are solved again, "
        "layer by layer; 0 leaves it out.",
    )
    finetune: int = _option(
        1, "Epochs of fine-tuning under held masks for each deep cut; 0 leaves it out."
    )
    finetune_from: float = _option(
        0.2, "Largest keep ratio that is fine-tuned; above it cuts are recalibrated only."
    )
    follow: float = _option(
        FOLLOW,
        "Weight, in fine-tuning, of following the network that was cut as it was uncut, in [0, 1], "
        "where the task has a loss for it; the task's own loss has the rest.",
    )
    batch_size: int = _option(128, "Training batch size.")
    rate: float = _option(0.1, "Peak learning rate of phase 1.")
    gate_rate: float = _option(0.05, "Peak learning rate of phase 2.")
    gate_multiple: float | None = _option(
        None,
        "The gates' own learning rate in phase 2, as a multiple of the weights'. "
        "\\[default: 3; in a task's own loop, what suits its optimizer]",
    )
    weight_decay: float = _option(5e-4, "Weight decay (gates have none).")
    teach: float = _option(
        0.0,
        "Weight of distillation from the dense network in phase 2 and its control, in [0, 1]; the "
        "task's own loss has the rest.",
    )
    lowest_keep: float = _option(0.03, "Smallest keep ratio drawn in phase 2.")
    dense_steps: float = _option(0.2, "Fraction of phase 2's steps that keep every weight.")
    calibration: int = _option(
        4096, "Training examples for batch-norm recalibration; all of them if there are fewer."
    )
    criterion_images: int = _option(
        1024, "Training examples that criteria look at which need data (wanda, taylor, obs)."
    )
    scope: Literal["global", "layer"] = _option(
        "global", "Rank weights over the whole network (global) or within each layer (layer)."
    )
    floor: float = _option(0.002, "Fraction of each layer's weights that is always kept.")
    pattern: str = _option(
        "weight", f"Shape of what is cut, and learned: {', '.join(_FORMS[:-1])} or {_FORMS[-1]}."
    )
    first_layer: bool = _option(False, "Prune the first layer too.")
    margin: float | None = _option(
        None,
        "How much worse than dense counts as no worse, in the metric's unit; declared, not tuned. "
        "\\[default: the metric's own; 0.5 points where it is in per cent]",
    )
    confidence: float = _option(0.95, "Confidence of intervals and of the operating region.")
    precision: Literal["auto", "fp32"] = _option(
        "auto", "auto: bf16 autocast where the machine computes in it; fp32: never."
    )

    def __post_init__(self) -> None:
        for name, kind in (("keep", float), ("criteria", str)):
            object.__setattr__(self, name, _several(name, getattr(self, name), kind))
        _check(self)

    @property
    def recoveries(self) -> tuple[str, ...]:
        """The ways to recover, kept apart in every table and curve."""
        asked = {"reconstruct": self.reconstruct, "finetune": self.fine_tunes}
        return tuple(name for name in RECOVERIES if asked.get(name, 1))

    @property
    def fine_tunes(self) -> bool:
        """Whether any cut is fine-tuned."""
        return self.finetune > 0 and min(self.keep) <= self.finetune_from


@dataclass(frozen=True, slots=True)
class Spec:
    """A task and its options, checked. Equal specs have equal hashes on every machine."""

    name: str
    description: Mapping[str, object]
    metric: Mapping[str, object]
    options: Options

    @classmethod
    def of(cls, task: Task, options: Options) -> Spec:
        """Join the options with the task's description, and with its metric's margin.

        Raises:
            UsageError: the description is not JSON; distillation is asked for and the task has no
                loss for it; its own training loop cannot do what is asked for; or neither the
                options nor the metric declare a margin.
        """
        for name, unasked in (("teach", (0,)), ("follow", (0, FOLLOW))):
            if getattr(options, name) not in unasked and task.imitation is None:
                raise UsageError(
                    f"{name} is {getattr(options, name)!r}, but task {task.name!r} has no "
                    f"imitation loss; give it one (SoftTargets() for classes), or set {name} to 0"
                )
        prunes = ["the criterion 'gate'"] * ("gate" in options.criteria)
        prunes += ["fine-tuning"] * options.fine_tunes
        check_training(task, prunes=" and ".join(prunes))
        if options.margin is None:
            options = replace(options, margin=_margin(task))
        metric = {
            "name": task.metric.name,
            "unit": task.metric.unit,
            "higher_is_better": task.metric.higher_is_better,
        }
        try:
            spec = cls(task.name, all_plain(dict(task.description)), metric, options)
            parse_json(spec.canonical())  # as it will be read back
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the description of task {task.name!r} is not JSON: {error}; "
                "use strings, finite numbers, booleans, lists and dicts only"
            ) from None
        return spec

    def canonical(self) -> str:
        """Return the one JSON text of this spec: sorted keys, no spaces."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def as_json(self) -> dict[str, Any]:
        """Return the spec as JSON values, every field included."""
        options = asdict(self.options)
        return {
            "format": FORMAT,
            "task": {"name": self.name, **self.description},
            "metric": dict(self.metric),
            "levels": list(options.pop("keep")),
            "seeds": list(self.seeds),
            "criteria": list(options.pop("criteria")),
            "recovery": list(self.recoveries),
            "margin": options.pop("margin"),
            "confidence": options.pop("confidence"),
            "options": {key: value for key, value in options.items() if key != "seeds"},
        }

    @property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON, in hex: the study's address."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, counted from 0."""
        return tuple(range(self.options.seeds))

    @property
    def recoveries(self) -> tuple[str, ...]:
        """Kept apart in every table and curve."""
        return self.options.recoveries

    def budget(self, keep: float) -> Budget:
        """Return the budget of one level."""
        return self.gate_phase.budget(keep)

    @property
    def gate_phase(self) -> GatePhase:
        """Return how phase 2 learns."""
        o = self.options
        return GatePhase(
            lowest_keep=o.lowest_keep,
            dense_steps=o.dense_steps,
            gate_rate=o.gate_multiple,
            scope=o.scope,
            floor=o.floor,
            pattern=o.pattern,
        )

    def recipe(self, stage: str) -> Recipe:
        """Return the recipe of a stage: train, gates, control or finetune."""
        o = self.options
        own = {"train": (o.epochs, o.rate), "finetune": (o.finetune, o.gate_rate)}
        epochs, rate = own.get(stage, (o.gate_epochs, o.gate_rate))
        return replace(
            SHORT if stage == "finetune" else Recipe(1),
            epochs=epochs,
            batch_size=o.batch_size,
            rate=rate,
            weight_decay=o.weight_decay,
            precision=o.precision,
        )


def _margin(task: Task) -> float:
    metric = task.metric
    if metric.declared is None:
        unit = f"in {metric.unit}" if metric.unit else "in its own unit"
        raise UsageError(
            f"no margin is declared for {metric.name}, the metric of task {task.name!r}: say how "
            f"much worse than dense, {unit}, counts as no worse, with margin=... (--margin), or "
            "Metric(margin=...) in the task; choose it before you look at results, as what the "
            "use of the network can bear"
        )
    return metric.declared


def _several(name: str, given: object, kind: type) -> tuple[Any, ...]:
    """Return the values of an option that has several, also where a single one was given."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return (plain(given),)
    if isinstance(given, (set, frozenset, Mapping)):
        raise UsageError(f"{name} is {shown(given)}, which has no order; give a tuple or a list")
    return tuple(map(plain, given))


def _check(o: Options) -> None:
    if len(o.keep) > LEVELS:  # before any of them is looked at
        raise UsageError(f"keep has {len(o.keep):,} keep ratios; give at most {LEVELS:,}")
    phase = GatePhase(scope=o.scope, floor=o.floor, pattern=o.pattern)
    for keep in o.keep:
        _check_level(phase, keep)
    if not o.keep:
        raise UsageError("keep has no keep ratio; give at least one, for example 0.5")
    for more, less in zip(o.keep, o.keep[1:], strict=False):
        if less >= more:
            raise UsageError(
                f"keep ratios must fall from level to level (sparsity must increase), "
                f"but {less:g} follows {more:g}"
            )
    if not o.criteria:
        raise UsageError(f"no criterion given; the valid ones are {', '.join(sorted(CRITERIA))}")
    for criterion in o.criteria:
        find(criterion)
    if len(set(o.criteria)) < len(o.criteria):
        raise UsageError(f"a criterion is named twice in {', '.join(o.criteria)}")
    refuse_wrong(
        o,
        ("seeds", _count(1, SEEDS), f"at least 1, a whole number, and at most {SEEDS:,}"),
        (
            "gate_epochs",
            _count(1, MOST_EPOCHS),
            f"at least 1, a whole number, and at most {MOST_EPOCHS:,}",
        ),
        ("finetune", _count(0, MOST_EPOCHS), f"0 or more epochs, at most {MOST_EPOCHS:,}"),
        ("finetune_from", lambda v: 0 < v <= 1, "in (0, 1]"),
        ("follow", lambda v: 0 <= v <= 1, "in [0, 1]"),
        (
            "reconstruct",
            lambda v: whole(v) and (v == 0 or LEAST <= v <= EXAMPLES),
            f"0, or at least {LEAST} images, at most {EXAMPLES:,}",
        ),
        ("lowest_keep", lambda v: 0 < v <= 1, "in (0, 1]"),
        ("gate_multiple", lambda v: v is None or 0 < v < float("inf"), "positive"),
        ("teach", lambda v: 0 <= v <= 1, "in [0, 1]"),
        ("dense_steps", lambda v: 0 <= v < 1, "in [0, 1)"),
        ("calibration", _count(1, EXAMPLES), f"at least 1 example, at most {EXAMPLES:,}"),
        (
            "criterion_images",
            _count(LEAST, EXAMPLES),
            f"at least {LEAST} examples, at most {EXAMPLES:,}",
        ),
        ("first_layer", lambda v: isinstance(v, bool), "True or False"),
        ("margin", lambda v: v is None or 0 < v < float("inf"), "positive"),
        ("confidence", lambda v: 0.5 <= v < 1, "in [0.5, 1)"),
    )
    Recipe(o.epochs, o.batch_size, o.rate, weight_decay=o.weight_decay, precision=o.precision)
    Recipe(o.gate_epochs, o.batch_size, o.gate_rate)
    if o.finetune > 1 and not o.fine_tunes:
        raise UsageError(
            f"finetune is {o.finetune}, but no keep ratio is {o.finetune_from:g} or less, which "
            "finetune_from asks for; raise that (1 fine-tunes every cut), or keep less"
        )
    try:
        check_size(o.seeds, len(o.keep), len(o.criteria), len(o.recoveries))
    except ValueError as error:
        raise UsageError(f"the study is too large: {error}; give fewer seeds or levels") from None


def _check_level(phase: GatePhase, keep: float) -> None:
    try:
        phase.budget(keep)
    except BudgetError as error:
        if (ratio := parse(phase.pattern).ratio) is None:
            raise
        raise UsageError(
            f"keep has {keep!r}, but the pattern {phase.pattern!r} keeps {ratio:g} of the weights; "
            f"give keep=(1.0, {ratio:g}) (--keep 1,{ratio:g})"
        ) from error


def _count(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: whole(value) and least <= value <= most
