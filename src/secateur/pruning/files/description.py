"""What a model file says of itself: values to JSON and back, every field checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from secateur.arguments import a, all_plain, refuse
from secateur.errors import UsageError
from secateur.files import parse_json
from secateur.pruning.files import packed
from secateur.pruning.selecting.budget import Budget

Architecture = str | tuple[str, Mapping[str, Any]]
"""How a model is built: "module:name" of a class or function, alone or with its arguments."""

_NAMES = {dtype: name for name, dtype in packed.DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a model file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    form: packed.Form
    count: int
    """How many elements are stored."""
    size: int
    """Bytes in the file."""
    masked: bool
    """Whether what is stored (in the dense form: what is not zero) is the tensor's mask."""
    tied: str | None = None
    """The earlier tensor that this one is; it then takes no bytes of its own."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model file holds beside its values."""

    tensors: tuple[Stored, ...]
    """In the order of the model's state dict."""
    architecture: tuple[str, Mapping[str, Any]] | None
    """How to build the model: "module:name", and keyword arguments."""
    budget: Budget | None
    """What the model was cut to."""
    provenance: Mapping[str, Any]
    """Whatever the writer wanted to be known."""
    versions: Mapping[str, str]
    """Of numpy, Python, secateur and torch that wrote the file."""
    date: str
    """When it was written: ISO 8601, in UTC."""
    sha256: str = ""
    """Of all this and of every byte of the tensors, in hex."""

    def to_json(self) -> str:
        """Return everything but the hash as JSON in one line."""
        return json.dumps(
            {
                "tensors": [_entry(stored) for stored in self.tensors],
                "architecture": architecture_fields(self.architecture),
                "budget": budget_fields(self.budget),
                "provenance": self.provenance,
                "versions": self.versions,
                "date": self.date,
            },
            allow_nan=False,
            separators=(",", ":"),
        )


def architecture_of(given: Architecture | None) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and arguments of an architecture.

    Raises:
        UsageError: it is neither "module:name" nor a pair of that and JSON arguments.
    """
    if given is None:
        return None
    pair = (given, {}) if isinstance(given, str) else given
    name, arguments = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else ("", {})
    module, colon, attribute = name.partition(":") if isinstance(name, str) else ("", "", "")
    parts = [*module.split("."), *attribute.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise UsageError(
            f"architecture is {given!r}, but must be 'module:name' of what builds the model, such "
            "as 'mypackage.nets:resnet', or a pair of that and a dict of its arguments"
        )
    return name, json_object("the arguments of architecture", arguments)


def architecture_fields(
    architecture: tuple[str, Mapping[str, Any]] | None,
) -> dict[str, Any] | None:
    """Return an architecture as JSON has it."""
    if architecture is None:
        return None
    return {"name": architecture[0], "arguments": architecture[1]}


def budget_fields(budget: Budget | None) -> dict[str, Any] | None:
    """Return a budget as JSON has it."""
    if budget is None:
        return None
    refuse("budget", budget, a(Budget, "a Budget"))
    return {
        "keep": budget.keep,
        "scope": budget.scope,
        "floor": float(budget.floor),
        "pattern": str(budget.pattern),
        "overrides": budget.overrides,
    }


def json_object(what: str, given: object) -> Mapping[str, Any]:
    """Return a mapping as it comes back from JSON.

    Raises:
        UsageError: it is no mapping, or not of what JSON has; says what was given.
    """
    try:
        if not isinstance(given, Mapping):
            raise TypeError(f"{type(given).__name__} is no mapping")
        back: Mapping[str, Any] = parse_json(json.dumps(all_plain(dict(given)), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} cannot be written as JSON: {error}; give a dict of strings, finite numbers, "
            "booleans, None, lists and dicts"
        ) from error
    return back


def parse(text: str, sha256: str) -> ModelInfo:
    """Return what JSON says, if it can be meant.

    Raises:
        ValueError, KeyError, TypeError: it cannot; the first says why.
    """
    given = _mapping(parse_json(text), "the description")
    tensors: dict[str, Stored] = {}
    for entry in _list(given["tensors"], "tensors"):
        stored = _stored(_mapping(entry, "a tensor"), tensors)
        if stored.name in tensors:
            raise ValueError(f"two tensors are called {stored.name[:80]!r}")
        tensors[stored.name] = stored
    architecture, budget = given["architecture"], given["budget"]
    versions = _mapping(given["versions"], "versions")
    return ModelInfo(
        tuple(tensors.values()),
        parse_architecture(architecture),
        budget and _budget(_mapping(budget, "the budget")),
        _mapping(given["provenance"], "the provenance"),
        {name: _text(version) for name, version in versions.items()},
        _text(given["date"]),
        sha256,
    )


def parse_architecture(given: object) -> tuple[str, Mapping[str, Any]] | None:
    """Return what `architecture_fields` gave.

    Raises:
        ValueError, KeyError: it is something else.
    """
    if given is None:
        return None
    fields = _mapping(given, "the architecture")
    arguments = _mapping(fields["arguments"], "the architecture's arguments")
    return architecture_of((_text(fields["name"]), arguments))


def _entry(stored: Stored) -> dict[str, Any]:
    if stored.tied is not None:
        return {"name": stored.name, "tied": stored.tied}
    return {
        "name": stored.name,
        "dtype": _NAMES[stored.dtype],
        "shape": stored.shape,
        "form": stored.form,
        "count": stored.count,
        "bytes": stored.size,
        "mask": stored.masked,
    }


def _stored(entry: Mapping[str, Any], earlier: Mapping[str, Stored]) -> Stored:
    name = _text(entry["name"])
    if "tied" in entry:
        first = earlier.get(_text(entry["tied"]))
        if first is None or first.tied is not None:
            raise ValueError(f"{name[:80]!r} is tied to what is no tensor before it")
        return Stored(name, first.dtype, first.shape, first.form, 0, 0, False, first.name)
    dtype = packed.DTYPES.get(_text(entry["dtype"]))
    if dtype is None:
        raise ValueError(f"{entry['dtype'][:20]!r} is no dtype that this version of torch has")
    shape = tuple(_count(size) for size in _list(entry["shape"], "a shape"))
    count, size = _count(entry["count"]), _count(entry["bytes"])
    form = _text(entry["form"])
    packed.check(form, count, size, dtype, shape)
    if not isinstance(entry["mask"], bool):
        raise ValueError(f"the mask of {name[:80]!r} is neither true nor false")
    return Stored(name, dtype, shape, cast(packed.Form, form), count, size, entry["mask"])


def _budget(given: Mapping[str, Any]) -> Budget:
    scope = given["scope"]
    return Budget(
        given["keep"],
        tuple(scope) if isinstance(scope, list) else scope,
        given["floor"],
        _text(given["pattern"]),
        [tuple(pair) for pair in _list(given["overrides"], "overrides")],
    )


def _mapping(given: object, what: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{what} is no JSON object")
    return given


def _list(given: object, what: str) -> list[Any]:
    if not isinstance(given, list):
        raise ValueError(f"{what} is no JSON array")
    return given


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{str(given)[:80]} stands where a string must")
    return given


def _count(given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 2**63:
        raise ValueError(f"{str(given)[:80]} stands where a size must")
    return given
