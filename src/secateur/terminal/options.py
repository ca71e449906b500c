"""Options of commands that need more than a type: lists, shapes, tasks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from secateur import files
from secateur.errors import FileError, UsageError

if TYPE_CHECKING:
    from secateur.study.task import Task

T = TypeVar("T")

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object (docs/cli.md), and nothing else.")
]
"""The option of every command that prints results."""


Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        help="NAME=1,3,32,32 fixes an input's shape; -1 first leaves the batch free. Repeats.",
        show_default=False,
    ),
]
"""`--input-shape`, of commands that compile or read an ONNX file; see `shape`."""

Values = Annotated[
    list[str] | None,
    typer.Option(
        "--input-value",
        help="NAME=16000 makes an input a constant: a number, true or false, several with commas, "
        "nested lists as in JSON, or @FILE.npy. Repeats.",
        show_default=False,
    ),
]
"""`--input-value`, of the same commands; see `value`."""


def listed(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Return the values of an option that takes several, with commas between them.

    Raises:
        UsageError: one is not of the kind.
    """
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"--{name.replace('_', '-')} takes values with commas between them, got {text!r}"
        ) from None


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the extents of `--input-shape`.

    Raises:
        UsageError: the text is not one.
    """
    name, _, extents = text.rpartition("=")
    try:
        return name, tuple(int(extent) for extent in extents.split(","))
    except ValueError:
        name = ""
    raise UsageError(f"--input-shape is NAME=1,3,32,32, not {text!r}")


def value(text: str) -> tuple[str, Any]:
    """Return the name and the value of `--input-value`: numbers, lists of them, or an array.

    Raises:
        UsageError: the text is not one.
        FileError: its file cannot be read, or holds no array of numbers.
    """
    at = "=@" if "=@" in text else "="  # a path may hold a "=", and so may a name
    name, sign, said = text.partition(at) if at == "=@" else text.rpartition(at)
    if name and at == "=@":
        return name, _array(Path(said))
    said = {"True": "true", "False": "false"}.get(said.strip(), said)
    for one in (said, f"[{said}]"):
        with suppress(ValueError):
            found = files.parse_json(one)
            if name and sign and found != [] and _is_numbers(found):
                return name, found
    raise UsageError(
        f"--input-value is NAME=16000, NAME=0.5,1.5, NAME=[[1,2],[3,4]], NAME=true or "
        f"NAME=@FILE.npy, not {text!r}"
    )


def input_shapes(texts: Iterable[str] | None) -> dict[str, tuple[int, ...]]:
    """Return every `--input-shape`: name → extents.

    Raises:
        UsageError: as of `shape`, or an input is named twice.
    """
    return _once("--input-shape", map(shape, texts or ()))


def input_values(texts: Iterable[str] | None) -> dict[str, Any]:
    """Return every `--input-value`: name → value.

    Raises:
        UsageError, FileError: as of `value`, or an input is named twice.
    """
    return _once("--input-value", map(value, texts or ()))


def _once(option: str, given: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for name, each in given:
        if name in found:
            raise UsageError(f"{option} is given twice for input {name!r}; give it once")
        found[name] = each
    return found


def _is_numbers(value: object) -> bool:
    """Whether a value is a number or truth value, or lists of such."""
    if isinstance(value, list):
        return all(map(_is_numbers, value))
    return isinstance(value, (bool, int, float))


def _array(path: Path) -> Any:
    found = files.read_arrays(path, "an input's value")
    if isinstance(found, dict) or found.dtype.kind not in "biuf":
        raise FileError(f"{path} holds no single array of numbers; give a .npy file of one")
    return found


def chosen(reference: str | None, built_in: dict[str, Any]) -> Task:
    """Return the user's own task, or the built-in one that the given options name."""
    from secateur.study.loading import load_task
    from secateur.study.task import classification

    if reference is None:
        return classification(**built_in)
    if built_in:
        given = ", ".join("--" + name.replace("_", "-") for name in built_in)
        raise UsageError(
            f"only a built-in task takes {given}, and {reference!r} is one of your own with its "
            "own data and network; leave out one or the other"
        )
    return load_task(reference)
