"""JSON: read within bounds, and into types that are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from secateur.files.reading import beginning

Kind = TypeVar("Kind")

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A whole number that counts something."""
LARGEST_JSON = 32 << 20
"""Bytes of a JSON file; the largest of any use, the index of a sharded model, has some 10 MB."""
_DEEPEST = 100  # levels; far less than what Python's own recursion bears
_DIGITS = 300  # of a whole number: more do not go into a float


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        path: of the file.
        largest: how many bytes it may have; no more are read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, not JSON within the bounds of `parse_json`, or another value
            than an object; says which, in words that go on after the file's name and a colon.
    """
    content = beginning(path, largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    given = parse_json(content)
    if not isinstance(given, dict):
        raise ValueError("it holds no JSON object")
    return given


def validated(
    value: object, kind: type[Kind], hook: Callable[[type, Any], Any] | None = None
) -> Kind:
    """Return what JSON said as a value of a type, every field checked.

    Args:
        value: of `parse_json`.
        kind: a `msgspec.Struct`, or another type that msgspec knows. Fields that it does not have
            are left out.
        hook: (type, value) → value of a type that msgspec does not know.

    Raises:
        ValueError: a field is missing, of another type, or out of its bounds; says which, in words
            that go on after the file's name and a colon.
    """
    try:
        return msgspec.convert(value, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        place = where.strip(".`")
        raise ValueError(f"{place}: {what}" if place else what) from None


def to_json(value: object) -> str:
    """Return the JSON of a value, structs included, in one line that `parse_json` reads.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(msgspec.to_builtins(value), allow_nan=False, separators=(",", ":"))


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says, where every use of it is then safe.

    Whatever comes back can be written, compared, copied and printed again: it is UTF-8 throughout,
    its numbers are finite and go into a float, its objects name nothing twice, and it is at most
    100 levels deep.

    Raises:
        ValueError: it is not so; says why.
    """
    try:
        msgspec.json.decode(text)  # refuses what json takes: NaN, 1e999, half a character
        value = json.loads(text, object_pairs_hook=_object, parse_int=_int)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    except (MemoryError, RecursionError):
        raise ValueError("it is nested too deep, or too large for the memory") from None
    if _is_deeper([value], _DEEPEST):
        raise ValueError("it is nested too deep")
    return value


def _is_deeper(value: dict[str, Any] | list[Any], levels: int) -> bool:
    """Return whether lists and objects in a value are more than some levels deep."""
    inner = value.values() if isinstance(value, dict) else value
    deep = [each for each in inner if isinstance(each, (dict, list))]
    return bool(deep) and (not levels or any(_is_deeper(each, levels - 1) for each in deep))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names {name[:80]!a} twice")
        found[name] = value
    return found


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"it has a whole number of {len(text):,} digits")
    return int(text)
