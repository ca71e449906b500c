"""What a model file says of itself: values to JSON and back, every field checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from secateur import files
from secateur.arguments import all_plain
from secateur.errors import UsageError
from secateur.pruning.files import packed
from secateur.pruning.selecting.budget import Budget, Scope

Architecture = str | tuple[str, Mapping[str, Any]]
"""How a model is built: "module:name" of a class or function, alone or with its arguments."""


class Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor of a model file."""

    name: str
    dtype: torch.dtype
    shape: tuple[files.Size, ...]
    form: packed.Form
    count: files.Size
    """How many elements are stored."""
    size: files.Size = msgspec.field(name="bytes")
    """Bytes in the file."""
    masked: bool = msgspec.field(name="mask")
    """Whether what is stored (in the dense form: what is not zero) is the tensor's mask."""
    tied: str | None = None
    """The earlier tensor that this one is; it then takes no bytes of its own."""


class ModelInfo(msgspec.Struct, frozen=True):
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
        entries = [_entry(stored) for stored in self.tensors]
        known = origin(self.architecture, self.budget, self.provenance, self.versions)
        return files.to_json(_Description(tensors=entries, date=self.date, **known))


class Builder(msgspec.Struct):
    """An architecture, as JSON has it."""

    name: str
    arguments: Mapping[str, Any]


class Cut(msgspec.Struct):
    """A budget, as JSON has it."""

    keep: float
    scope: Scope
    floor: float
    pattern: str
    overrides: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, budget: Budget) -> Cut:
        """Return a budget for JSON."""
        pattern, floor = str(budget.pattern), float(budget.floor)
        return cls(budget.keep, budget.scope, floor, pattern, budget.overrides)


class _Tied(msgspec.Struct):
    name: str
    tied: str


class Origin(msgspec.Struct, kw_only=True):
    """What is known of a model, as JSON has it in its file or in a folder's config.json."""

    architecture: Builder | None
    budget: Cut | None
    provenance: Mapping[str, Any]
    versions: Mapping[str, str]


class _Description(Origin):
    tensors: list[dict[str, Any]]
    """Each is a `_Tied` where it has `tied`, else a `Stored`."""
    date: str


def origin(
    architecture: tuple[str, Mapping[str, Any]] | None,
    budget: Budget | None,
    provenance: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the fields of an `Origin`."""
    return {
        "architecture": None if architecture is None else Builder(*architecture),
        "budget": None if budget is None else Cut.of(budget),
        "provenance": provenance,
        "versions": versions,
    }


def architecture_of(given: Architecture | Builder | None) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and arguments of an architecture.

    Raises:
        UsageError: it is neither "module:name" nor a pair of that and JSON arguments.
    """
    if given is None:
        return None
    if isinstance(given, Builder):
        given = given.name, given.arguments
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


def json_object(what: str, given: object) -> Mapping[str, Any]:
    """Return a mapping as it comes back from JSON; an empty one for None.

    Raises:
        UsageError: it is no mapping, or not of what JSON has; says what was given.
    """
    try:
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise TypeError(f"{type(given).__name__} is no mapping")
        back: Mapping[str, Any] = files.parse_json(
            json.dumps(all_plain(dict(given)), allow_nan=False)
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{what} cannot be written as JSON: {error}; give a dict of strings, finite numbers, "
            "booleans, None, lists and dicts"
        ) from error
    return back


def parse(text: str, sha256: str) -> ModelInfo:
    """Return what JSON says, if it can be meant.

    Raises:
        ValueError: it cannot; says why.
    """
    given = files.validated(files.parse_json(text), _Description)
    tensors: dict[str, Stored] = {}
    for entry in given.tensors:
        stored = _stored(entry, tensors)
        if stored.name in tensors:
            raise ValueError(f"two tensors are called {stored.name[:80]!r}")
        tensors[stored.name] = stored
    return ModelInfo(
        tuple(tensors.values()),
        architecture_of(given.architecture),
        None if given.budget is None else Budget(*msgspec.structs.astuple(given.budget)),
        given.provenance,
        given.versions,
        given.date,
        sha256,
    )


def _entry(stored: Stored) -> dict[str, Any]:
    if stored.tied is not None:
        return {"name": stored.name, "tied": stored.tied}
    entry: dict[str, Any] = msgspec.to_builtins(
        stored, enc_hook=lambda dtype: str(dtype).removeprefix("torch.")
    )
    return entry


def _stored(entry: dict[str, Any], earlier: Mapping[str, Stored]) -> Stored:
    if "tied" in entry:
        tied = files.validated(entry, _Tied)
        first = earlier.get(tied.tied)
        if first is None or first.tied is not None:
            raise ValueError(f"{tied.name[:80]!r} is tied to what is no tensor before it")
        return msgspec.structs.replace(
            first, name=tied.name, count=0, size=0, masked=False, tied=first.name
        )
    stored = files.validated(entry, Stored, _dtype)
    packed.check(stored.form, stored.count, stored.size, stored.dtype, stored.shape)
    return stored


def _dtype(_: type, name: object) -> torch.dtype:
    if not isinstance(name, str) or name not in packed.DTYPES:
        raise ValueError(f"{str(name)[:20]!r} is no dtype that this version of torch has")
    return packed.DTYPES[name]
