"""What a study may be told; the command line is made from these fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

from secateur.arguments import checked, plain, shown
from secateur.errors import BudgetError, UsageError, refuse_wrong, whole
from secateur.study.schema import LEVELS, SEEDS, check_size

if TYPE_CHECKING:
    from secateur.pruning.gates.phase import GatePhase

EXAMPLES = 10**9
"""Most training examples that calibration or a criterion is asked to look at."""
TEACH = 0.9
"""Weight of the start's outputs in what comes after it; docs/lab/ladder.md has its worth."""
ONE_SHOT = ("none", "batchnorm", "reconstruct")
"""Ways to repair a cut without training it."""
LADDER = "ladder"
"""The recovery of what was trained on the way down."""
_LADDER, _DRAWN = (LADDER,), ("trunk", "frozen")
_OF_GATES = {"ladder_from": _LADDER, "learn": _LADDER, "lowest_keep": _DRAWN, "dense_steps": _DRAWN}
"""Options that say how gates of some kinds learn, and nothing of the others."""


def _modules(package: str) -> list[str]:
    """Return the names of a package's modules, without importing it."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return sorted(each.name for each in iter_modules(places or ()))


def _option(default: Any, text: str) -> Any:
    """A field whose help text the command line shows."""
    return field(default=default, metadata={"help": text})


@checked()
@dataclass(frozen=True, slots=True)
class Options:
    """The plan of a study, apart from its task.

    Raises:
        UsageError: an option is out of its range; says which and what it may be.
    """

    keep: tuple[float, ...] = _option(
        (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02),
        "Keep ratios to cut to, in (0, 1], from most to least kept.",
    )
    seeds: int = _option(3, "How many seeds: the whole study is repeated with each.")
    first_seed: int = _option(0, "The first of the seeds, which are counted on from there.")
    criteria: tuple[str, ...] = _option(
        ("gate", "magnitude", "random"),
        f"Criteria that give the scores, of {', '.join(_modules('secateur.pruning.criteria'))}.",
    )
    gates: Literal["ladder", "trunk", "frozen"] = _option(
        "ladder",
        "How gates are learned: down a ladder of falling keep ratios, trained on every rung; as "
        "one trunk that serves all ratios; or as masks of weights that stay frozen.",
    )
    primary: str = _option(
        "",
        "CRITERION/RECOVERY whose levels are certified; all others are exploratory. "
        "\\[default: the first criterion, down the ladder where that is trained]",
    )
    epochs: int = _option(10, "Epochs of the start, the plain training of the uncut network.")
    gate_epochs: float = _option(
        3.0,
        "Epochs after the start: of a trunk; of a whole ladder, shared among its rungs by how "
        "far each goes down. Uncut networks train as long.",
    )
    ladder_from: float = _option(
        0.6, "Largest keep ratio that is a rung of the ladder; above it the start is cut."
    )
    reconstruct: int = _option(
        0,
        "Unlabelled training examples from which the kept weights of each cut of the start are "
        "solved again, layer by layer; 0 leaves it out.",
    )
    unrepaired: bool = _option(False, "Measure cuts before any repair, too.")
    smaller: float | None = _option(
        None,
        "Keep ratio that is compared with dense networks of fewer channels, trained for as long: "
        "one of as many weights and, where networks are measured, one as fast. 0 leaves them out. "
        "\\[default: 0.2 where that is a rung, and the task has smaller networks]",
    )
    batch_size: int = _option(128, "Training batch size.")
    rate: float = _option(0.15, "Peak learning rate of the start.")
    gate_rate: float = _option(0.06, "Peak learning rate after the start.")
    gate_multiple: float | None = _option(
        None,
        "The gates' own learning rate, as a multiple of the weights'. "
        "\\[default: 20 on a ladder, else 3; in a task's own loop, what suits its optimizer]",
    )
    learn: float = _option(
        0.8, "Fraction of a rung's steps that learn gates through the cut, before it is made."
    )
    weight_decay: float = _option(5e-4, "Weight decay (gates have none).")
    teach: float = _option(
        TEACH,
        "Weight, in all training after the start, of following the start's outputs, in [0, 1], "
        "where the task has a loss for it; the task's own loss has the rest.",
    )
    lowest_keep: float = _option(
        0.03, "Smallest keep ratio drawn for a trunk, or for frozen weights."
    )
    dense_steps: float = _option(0.2, "Fraction of such steps that keep every weight.")
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
        "weight",
        "Shape of what is cut, and learned, such as weight, 2:4, 16x4 or dot4; `secateur doctor` "
        "lists them.",
    )
    first_layer: bool = _option(False, "Prune the first layer too.")
    int8: bool = _option(
        False,
        "Measure what is cut as the int8 file that is shipped: quantised on training examples, "
        "compiled, and run here. Uncut networks are measured as they were trained.",
    )
    margin: float | None = _option(
        None,
        "How much worse than the reference counts as no worse, in the metric's unit; declared, "
        "not tuned. \\[default: the metric's own; 0.5 points where it is in per cent]",
    )
    confidence: float = _option(0.95, "Confidence of intervals and of the operating region.")
    precision: Literal["auto", "fp32"] = _option(
        "auto", "auto: bf16 autocast where the machine computes in it; fp32: never."
    )

    def __post_init__(self) -> None:
        for name, kind in (("keep", float), ("criteria", str)):
            object.__setattr__(self, name, _several(name, getattr(self, name), kind))
        _check(self)
        object.__setattr__(self, "keep", tuple(map(_real, self.keep)))
        for each in fields(self):  # so that 1 and 1.0, which are equal, have one address
            if str(each.type).startswith("float"):
                object.__setattr__(self, each.name, _real(getattr(self, each.name)))

    @property
    def down(self) -> bool:
        """Whether there is a ladder."""
        return self.gates == LADDER

    @property
    def rungs(self) -> tuple[float, ...]:
        """The keep ratios that networks are trained at, falling; none where no criterion is."""
        if not self.down or not self._trained:
            return ()
        return tuple(k for k in self.keep if k <= self.ladder_from and k < 1)

    @property
    def arms(self) -> tuple[str, ...]:
        """The criteria that go down the ladder: all whose order is worth training for."""
        return self._trained if self.rungs else ()

    @property
    def _trained(self) -> tuple[str, ...]:
        return tuple(c for c in self.criteria if c != "random")

    @property
    def recoveries(self) -> tuple[str, ...]:
        """Ways to get a network of a keep ratio; kept apart in every table and curve."""
        asked = {"none": self.unrepaired, "reconstruct": self.reconstruct}
        repairs = tuple(name for name in ONE_SHOT if asked.get(name, 1))
        return (LADDER, *repairs) if self.arms else repairs

    def cuts(self, criterion: str, recovery: str) -> tuple[float, ...]:
        """Return the keep ratios at which a criterion is cut and recovered so; often none."""
        if criterion not in self.criteria or recovery not in self.recoveries:
            return ()
        if recovery == LADDER:
            return self.keep if criterion in self.arms else ()
        if self.down and criterion == "gate":  # which has learned nothing before the ladder
            return ()
        if criterion != "random":
            return self.keep
        below = [keep for keep in self.keep if keep < 1] or list(self.keep)
        return tuple(dict.fromkeys((below[0], below[len(below) // 2], below[-1])))

    @property
    def claim(self) -> tuple[str, str]:
        """The (criterion, recovery) of the primary sequence of tests."""
        if self.primary:
            criterion, _, recovery = self.primary.partition("/")
            return criterion, recovery
        pairs = self.curves
        return next((pair for pair in pairs if pair[1] != "none"), pairs[0])

    @property
    def curves(self) -> tuple[tuple[str, str], ...]:
        """Every (criterion, recovery) that something is cut by."""
        pairs = ((c, r) for c in self.criteria for r in self.recoveries)
        return tuple(pair for pair in pairs if self.cuts(*pair))

    def epochs_of(self, rung: float) -> float:
        """Return the epochs of a rung, its share of `gate_epochs`.

        Halvings of the weights cost the more the fewer are left, so each is weighed by what is
        gone: the share from keep ratio a to b is the integral of (1 - k) dk / k, so that levels in
        between add no epochs.
        """
        above = min(k for k in (1.0, *self.rungs) if k > rung)
        return self.gate_epochs * _way(above, rung) / _way(1.0, self.rungs[-1])


def _real(value: Any) -> Any:
    """Return a whole number as the float that it is equal to, where that is exact."""
    return float(value) if whole(value) and abs(value) < 2**53 else value


def _way(above: float, below: float) -> float:
    down, gone = above - below, ((1 - above) + (1 - below)) / 2
    if down < 1e-4:  # there the difference of two nearly equal terms says nothing
        return down * gone / (1 - gone)
    return math.log(above / below) - down


def _several(name: str, given: object, kind: type) -> tuple[Any, ...]:
    """Return the values of an option that has several, also where a single one was given."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return (plain(given),)
    if isinstance(given, (set, frozenset, Mapping)):
        raise UsageError(f"{name} is {shown(given)}, which has no order; give a tuple or a list")
    return tuple(map(plain, given))


def _check(o: Options) -> None:
    # Here, so that `secateur study --help` need not load torch.
    from secateur.pruning.calibration import LEAST
    from secateur.pruning.criteria import CRITERIA, find
    from secateur.pruning.gates.phase import GatePhase
    from secateur.training import MOST_EPOCHS, Recipe

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
        ("first_seed", _count(0, EXAMPLES), f"a whole number from 0 to {EXAMPLES:,}"),
        (
            "gate_epochs",
            lambda v: not isinstance(v, bool) and 0 < v <= MOST_EPOCHS,
            f"above 0, and at most {MOST_EPOCHS:,} epochs",
        ),
        ("gates", lambda v: v in (LADDER, "trunk", "frozen"), "ladder, trunk or frozen"),
        ("primary", lambda v: isinstance(v, str), "CRITERION/RECOVERY, such as gate/ladder"),
        ("ladder_from", lambda v: 0 < v <= 1, "in (0, 1]"),
        (
            "reconstruct",
            lambda v: whole(v) and (v == 0 or LEAST <= v <= EXAMPLES),
            f"0, or at least {LEAST} images, at most {EXAMPLES:,}",
        ),
        ("unrepaired", lambda v: isinstance(v, bool), "True or False"),
        ("lowest_keep", lambda v: 0 < v <= 1, "in (0, 1]"),
        ("gate_multiple", lambda v: v is None or 0 < v < float("inf"), "positive"),
        ("learn", lambda v: 0 < v <= 1, "in (0, 1]"),
        ("teach", lambda v: 0 <= v <= 1, "in [0, 1]"),
        ("dense_steps", lambda v: 0 <= v < 1, "in [0, 1)"),
        ("calibration", _count(1, EXAMPLES), f"at least 1 example, at most {EXAMPLES:,}"),
        (
            "criterion_images",
            _count(LEAST, EXAMPLES),
            f"at least {LEAST} examples, at most {EXAMPLES:,}",
        ),
        ("first_layer", lambda v: isinstance(v, bool), "True or False"),
        ("int8", lambda v: isinstance(v, bool), "True or False"),
        ("margin", lambda v: v is None or 0 < v < float("inf"), "positive"),
        ("confidence", lambda v: 0.5 <= v < 1, "in [0.5, 1)"),
    )
    Recipe(o.epochs, o.batch_size, o.rate, weight_decay=o.weight_decay, precision=o.precision)
    Recipe(1, o.batch_size, o.gate_rate)
    _check_gates(o)
    _check_claim(o)
    try:
        check_size(o.seeds, len(o.keep), len(o.criteria), len(o.recoveries))
    except ValueError as error:
        raise UsageError(f"the study is too large: {error}; give fewer seeds or levels") from None


def _check_gates(o: Options) -> None:
    for each in fields(o):
        kinds, given = _OF_GATES.get(each.name, (o.gates,)), getattr(o, each.name)
        if o.gates not in kinds and given != each.default:
            raise UsageError(
                f"{each.name} is {given:g}, but says nothing of gates={o.gates!r}, only of "
                f"{' and '.join(kinds)}; leave it out"
            )


def _check_claim(o: Options) -> None:
    if "gate" in o.criteria and o.down and not o.rungs:
        raise UsageError(
            f"gates would learn nothing: no keep ratio is {o.ladder_from:g} or less and below 1, "
            "where the ladder begins; raise ladder_from, keep less, or leave out the criterion gate"
        )
    rungs = f"0, or one of the keep ratios of the ladder ({_listed(o.rungs) or 'it has none'})"
    one_of = o.smaller is None or o.smaller == 0 or o.smaller in o.rungs
    refuse_wrong(o, ("smaller", lambda v: one_of and not isinstance(v, bool), rungs))
    if o.claim not in o.curves:
        pairs = ", ".join(map("/".join, o.curves))
        raise UsageError(f"primary is {o.primary!r}, but must be one of {pairs}")


def _listed(ratios: tuple[float, ...]) -> str:
    return f"{', '.join(f'{ratio:g}' for ratio in ratios[:10])}{', …' if ratios[10:] else ''}"


def _check_level(phase: GatePhase, keep: float) -> None:
    from secateur.pruning.selecting.patterns import parse

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
