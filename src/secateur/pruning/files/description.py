"""What a model file says of itself: values to JSON and back, every field checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from secateur import files
from secateur.arguments import a, all_plain, refuse
from secateur.errors import UsageError
from secateur.pruning.files import packed
from secateur.pruning.selecting.budget import Budget, Scope

Architecture = str | tuple[str, Mapping[str, Any]]
"""How a model is built: "module:name" of a class or function, alone or with its arguments."""

_NAMES = {dtype: name for name, dtype in packed.DTYPES.items()}


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
        return files.to_json(
            _Description(
                [_entry(stored) for stored in self.tensors],
                Builder.of(self.architecture),
                Cut.of(self.budget),
                dict(self.provenance),
                dict(self.versions),
                self.date,
            )
        )


class Builder(msgspec.Struct):
    """An architecture, as JSON has it."""

    name: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, architecture: tuple[str, Mapping[str, Any]] | None) -> Builder | None:
        """Return what `architecture_of` gave, for JSON."""
        return None if architecture is None else cls(architecture[0], dict(architecture[1]))

    def architecture(self) -> tuple[str, Mapping[str, Any]] | None:
        """Return what `of` was given.

        Raises:
            ValueError: it is no such thing.
        """
        return architecture_of((self.name, self.arguments))


class Cut(msgspec.Struct):
    """A budget, as JSON has it."""

    keep: float
    scope: Scope
    floor: float
    pattern: str
    overrides: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, budget: Budget | None) -> Cut | None:
        """Return a budget for JSON.

        Raises:
            UsageError: it is none.
        """
        if budget is None:
            return None
        refuse("budget", budget, a(Budget, "a Budget"))
        return cls(
            budget.keep, budget.scope, float(budget.floor), str(budget.pattern), budget.overrides
        )

    def budget(self) -> Budget:
        """Return what `of` was given.

        Raises:
            ValueError: there can be no such budget.
        """
        return Budget(self.keep, self.scope, self.floor, self.pattern, self.overrides)


class _Tied(msgspec.Struct):
    name: str
    tied: str


class _Description(msgspec.Struct):
    tensors: list[dict[str, Any]]
    """Each is a `_Tied` where it has `tied`, else a `Stored`."""
    architecture: Builder | None
    budget: Cut | None
    provenance: dict[str, Any]
    versions: dict[str, str]
    date: str


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


def json_object(what: str, given: object) -> Mapping[str, Any]:
    """Return a mapping as it comes back from JSON.

    Raises:
        UsageError: it is no mapping, or not of what JSON has; says what was given.
    """
    try:
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
        None if given.architecture is None else given.architecture.architecture(),
        None if given.budget is None else given.budget.budget(),
        given.provenance,
        given.versions,
        given.date,
        sha256,
    )


def _entry(stored: Stored) -> dict[str, Any]:
    if stored.tied is not None:
        return {"name": stored.name, "tied": stored.tied}
    entry: dict[str, Any] = msgspec.to_builtins(stored, enc_hook=_NAMES.__getitem__)
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
