"""What a spec and a record must look like to be used: fields, kinds and bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SEEDS = 10_000
"""Most seeds of a study."""
LEVELS = 1_000
"""Most keep ratios of a study."""
ITEMS = 100_000
"""Most stages and trials of a study, all together."""
_LARGEST = 1e100  # of a figure: sums of squares of such are still finite


@dataclass(frozen=True, slots=True)
class _Is:
    """One value, by what it must be."""

    what: str
    fine: Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class _Each:
    """A list, or an object with any names, and what each of its values must be."""

    container: type[list[Any]] | type[dict[str, Any]]
    kind: _Kind
    least: int = 0


_Kind = _Is | _Each | Mapping[str, Any]


def _number(low: float = -_LARGEST, high: float = _LARGEST) -> _Is:
    return _Is(
        f"a number from {low:g} to {high:g}",
        lambda v: type(v) in (int, float) and low <= v <= high,
    )


_TEXT = _Is("a text", lambda v: isinstance(v, str))
_COUNT = _Is("a whole number", lambda v: type(v) is int and 0 <= v < 2**63)
_TRUTH = _Is("true or false", lambda v: isinstance(v, bool))
_ANY = _Is("anything", lambda v: True)
_AMOUNT = _number(0)
_RATIO = _Is("a number in (0, 1]", lambda v: type(v) in (int, float) and 0 < v <= 1)
_TEXTS = _Each(list, _TEXT, 1)

# A name that ends in ? may be missing; names that are not listed may hold anything.
_SPEC: _Kind = {
    "task": {"name": _TEXT},
    "metric": {"name": _TEXT, "unit": _TEXT, "higher_is_better": _TRUTH},
    "levels": _Each(list, _RATIO, 1),
    "seeds": _Each(list, _COUNT, 1),
    "criteria": _TEXTS,
    "recovery": _TEXTS,
    "margin": _Is("a positive number", lambda v: type(v) in (int, float) and 0 < v <= _LARGEST),
    "confidence": _Is("a number in [0.5, 1)", lambda v: type(v) in (int, float) and 0.5 <= v < 1),
    "options": {"floor?": _number(0, 1), "finetune_from?": _number(0, 1)},
}
_RUN: dict[str, Any] = {
    "seconds?": _AMOUNT,
    "work?": _AMOUNT,
    "started?": _TEXT,
    "precision?": _TEXT,
    "versions?": _Each(dict, _TEXT),
    "hardware?": _Each(dict, _ANY),
}
_TRIAL: _Kind = {
    "trial": {"seed": _COUNT, "criterion": _TEXT, "keep": _RATIO, "recovery": _TEXT},
    "metrics": {"validation": _number(), "test": _number()},
    "weights": {
        "parameters": _COUNT,
        "prunable": _COUNT,
        "kept": _COUNT,
        "layers": _Each(dict, {"kept": _COUNT, "total": _COUNT}),
    },
    **_RUN,
}
_STAGE: _Kind = {
    "stage": _TEXT,
    "seed": _COUNT,
    "checkpoint": _TEXT,
    "log": _Each(list, _Each(dict, _ANY)),
    "excluded?": _Each(dict, _TEXT),
    "gates?": _Each(dict, {"edges": _Each(list, _ANY), "counts": _Each(list, _ANY)}),
    **_RUN,
}


def check_spec(spec: Mapping[str, Any]) -> None:
    """Refuse a spec that nothing can be concluded with.

    Raises:
        ValueError: a field is missing, of the wrong kind or out of its bounds; says which.
    """
    _check(spec, _SPEC, "")
    check_size(
        len(spec["seeds"]), len(spec["levels"]), len(spec["criteria"]), len(spec["recovery"])
    )


def check_record(record: Mapping[str, Any]) -> None:
    """Refuse a record of a stage or a trial that no report can be made of.

    Raises:
        ValueError: as in `check_spec`.
    """
    _check(record, _TRIAL if "trial" in record else _STAGE, "")


def check_size(seeds: int, levels: int, criteria: int, recoveries: int) -> None:
    """Refuse a study of more items than can be meant.

    Raises:
        ValueError: says of what there is too much.
    """
    for count, most, what in ((seeds, SEEDS, "seeds"), (levels, LEVELS, "keep ratios")):
        if count > most:
            raise ValueError(f"it has {count:,} {what}, and a study has at most {most:,}")
    items = seeds * (3 + recoveries * (1 + levels * criteria))
    if items > ITEMS:
        raise ValueError(
            f"it has up to {items:,} stages and trials, and a study has at most {ITEMS:,}"
        )


def _check(value: Any, kind: _Kind, where: str) -> None:
    if isinstance(kind, _Is):
        if not kind.fine(value):
            raise ValueError(f"{where} is {_shown(value)}, but must be {kind.what}")
        return
    wants_list = isinstance(kind, _Each) and kind.container is list
    if not isinstance(value, list if wants_list else dict):
        what = "a list" if wants_list else "an object"
        raise ValueError(f"{where or 'it'} is {_shown(value)}, but must be {what}")
    if isinstance(kind, _Each):
        if len(value) < kind.least:
            raise ValueError(f"{where} is empty")
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _check(each, kind.kind, f"{where}.{str(name)[:80]}")
        return
    fields: dict[str, Any] = value  # type: ignore[assignment]  # it was looked at above
    for name, inner in kind.items():
        plain = name.removesuffix("?")
        if plain in fields:
            _check(fields[plain], inner, f"{where}.{plain}".lstrip("."))
        elif plain == name:
            raise ValueError(f"it has no field {f'{where}.{plain}'.lstrip('.')!r}")


def _shown(value: object) -> str:
    """Return a value for a message, where nothing large or deep is printed."""
    if isinstance(value, dict | list):
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    return ascii(value)[:80]
