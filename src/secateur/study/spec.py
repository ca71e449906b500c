"""The plan of a study: a frozen value whose hash is its address."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from secateur.arguments import all_plain
from secateur.errors import UsageError
from secateur.files import parse_json
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.recovery.finetune import SHORT
from secateur.pruning.selecting.budget import Budget
from secateur.study.options import TEACH, Options
from secateur.study.own_training import check_training
from secateur.study.task import Task
from secateur.training import Recipe

FORMAT = 5  # 5: int8; 4: references of equal training, the ladder; 3: the pattern
SMALLER = 0.2
"""Keep ratio that smaller dense networks are compared with, where it is a level."""

_OWN = ("keep", "seeds", "first_seed", "criteria", "primary", "margin", "confidence")
"""Options that stand in fields of their own in the JSON of a spec."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A task and its options, checked. Equal specs have equal hashes on every machine."""

    name: str
    description: Mapping[str, object]
    metric: Mapping[str, object]
    options: Options

    @classmethod
    def of(cls, task: Task, options: Options) -> Spec:
        """Join the options with the task: what they leave open is what the task has.

        Raises:
            UsageError: the description is not JSON; distillation or smaller networks are asked
                for and the task has none; its own training loop cannot do what is asked for; or
                neither the options nor the metric declare a margin.
        """
        options = _completed(options, task)
        held = "gate" in options.criteria or options.gates == "frozen"
        trained = options.rungs if options.down else held
        check_training(task, prunes="training with what is cut" if trained else "")
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
        o, options = self.options, asdict(self.options)
        return {
            "format": FORMAT,
            "task": {"name": self.name, **self.description},
            "metric": dict(self.metric),
            "levels": list(o.keep),
            "seeds": list(self.seeds),
            "criteria": list(o.criteria),
            "recovery": list(o.recoveries),
            "primary": _claim(o),
            "margin": o.margin,
            "confidence": o.confidence,
            "options": {key: value for key, value in options.items() if key not in _OWN},
        }

    @property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON, in hex: the study's address."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        first = self.options.first_seed
        return tuple(range(first, first + self.options.seeds))

    def budget(self, keep: float) -> Budget:
        """Return the budget of one level."""
        return self.gate_phase.budget(keep)

    @property
    def gate_phase(self) -> GatePhase:
        """Return how gates learn."""
        o = self.options
        return GatePhase(
            lowest_keep=o.lowest_keep,
            dense_steps=o.dense_steps,
            gate_rate=o.gate_multiple,
            weights="frozen" if o.gates == "frozen" else "joint",
            scope=o.scope,
            floor=o.floor,
            pattern=o.pattern,
        )

    @property
    def first(self) -> Recipe:
        """Return the recipe of the start."""
        return self._recipe(Recipe(1), self.options.epochs, self.options.rate)

    def second(self, epochs: float) -> tuple[Recipe, float]:
        """Return the recipe of training after the start, and the fraction of each pass it takes.

        Args:
            epochs: how many, whole or not. A pass may end early, so that they are met.
        """
        passes = max(1, math.ceil(epochs - 1e-9))
        return self._recipe(SHORT, passes, self.options.gate_rate), min(1.0, epochs / passes)

    def _recipe(self, like: Recipe, epochs: int, rate: float) -> Recipe:
        o = self.options
        return replace(
            like,
            epochs=epochs,
            batch_size=o.batch_size,
            rate=rate,
            weight_decay=o.weight_decay,
            precision=o.precision,
        )


def is_smaller(other: Mapping[str, Any], spec: Spec) -> bool:
    """Return whether another spec, as JSON values, is this one with the first of its seeds only."""
    mine, theirs = json.loads(spec.canonical()), dict(other)
    seeds, fewer = mine.pop("seeds"), theirs.pop("seeds")
    return bool(mine == theirs and len(fewer) < len(seeds) and fewer == seeds[: len(fewer)])


def differences(here: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return in what two specs differ, as JSON values: names of fields, and both values."""
    found: list[str] = []
    for key in sorted({*here, *wanted}):
        a, b = here.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {_brief(a)} there, {_brief(b)} here")
    return found


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def options_of(spec: Mapping[str, Any]) -> Options:
    """Return the options of a spec given as JSON values, as `Spec.as_json` writes them.

    Raises:
        UsageError: they are not those of a study; says which is wrong.
    """
    known = {each.name for each in fields(Options)} - set(_OWN)
    primary, seeds = spec["primary"], spec["seeds"]
    stands = spec["options"].keys()
    for name, what in ((stands - known, "has"), (known - stands, "lacks")):
        if name:
            raise UsageError(f"the spec {what} options: {', '.join(sorted(name))[:200]}")
    given = {
        **spec["options"],
        "keep": tuple(spec["levels"]),
        "seeds": len(seeds),
        "first_seed": seeds[0],
        "criteria": tuple(spec["criteria"]),
        "primary": f"{primary['criterion']}/{primary['recovery']}",
        "margin": spec["margin"],
        "confidence": spec["confidence"],
    }
    options = Options(**given)
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise UsageError("the seeds of the spec do not follow one another")
    for part, follows in (("recovery", list(options.recoveries)), ("primary", _claim(options))):
        if spec[part] != follows:
            raise UsageError(f"{part} of the spec does not follow from its options")
    return options


def _claim(o: Options) -> dict[str, Any]:
    """Return the primary sequence of tests as JSON values."""
    criterion, recovery = o.claim
    return {"criterion": criterion, "recovery": recovery, "levels": list(o.cuts(*o.claim))}


def _completed(options: Options, task: Task) -> Options:
    """Return the options, with what they leave to the task."""
    if options.teach not in (0, TEACH) and task.imitation is None:
        raise UsageError(
            f"teach is {options.teach!r}, but task {task.name!r} has no imitation loss; give it "
            "one (SoftTargets() for classes), or set teach to 0"
        )
    if options.smaller and task.smaller is None:
        raise UsageError(
            f"smaller is {options.smaller!r}, but task {task.name!r} has no smaller networks; give "
            "it some, Task(smaller=lambda width: ...), or set smaller to 0"
        )
    if task.imitation is None:
        options = replace(options, teach=0.0)
    if options.smaller is None:
        has = task.smaller is not None and SMALLER in options.rungs
        options = replace(options, smaller=SMALLER if has else 0.0)
    if options.margin is None:
        options = replace(options, margin=_margin(task))
    return options


def _margin(task: Task) -> float:
    metric = task.metric
    if metric.declared is None:
        unit = f"in {metric.unit}" if metric.unit else "in its own unit"
        raise UsageError(
            f"no margin is declared for {metric.name}, the metric of task {task.name!r}: say how "
            f"much worse than the reference, {unit}, counts as no worse, with margin=... "
            "(--margin), or Metric(margin=...) in the task; choose it before you look at results, "
            "as what the use of the network can bear"
        )
    return metric.declared
