"""A task by its address: `mytask.py:task`, or `package.module:task`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from secateur.arguments import Wanted, checked
from secateur.errors import UsageError
from secateur.study.failure import told
from secateur.study.task import Task

FORM = "FILE.py:NAME or PACKAGE.MODULE:NAME, for example mytask.py:task"
T = TypeVar("T")


@checked(
    reference=Wanted(
        lambda v: isinstance(v, str),
        f"a text, {FORM}",
        lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v,
    )
)
def load_task(reference: str | os.PathLike[str]) -> Task:
    """Import a file or a module and return the task in it.

    The file's folder (for a module, the current folder) is put first on `sys.path`, as Python
    does for a script. The task's description gets `source`, the reference without folders. Where
    the task does not describe itself it gets `source_sha256` too, the SHA-256 of the file it was
    read from, so that a study of the file as it was and one of the file as it is are two; what
    the file imports is not in it.

    Args:
        reference: the file or module, a colon, and a name in it: a `Task`, or a function without
            arguments that returns one.

    Raises:
        UsageError: there is no such file, module or name, it is no task, or importing raised;
            then with the error, its message and the line.
    """
    reference = str(reference)
    where, _, name = reference.rpartition(":")
    if not where or "\0" in where or not name.isidentifier():
        raise UsageError(f"{reference!r} names no task; give {FORM}")
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    module, content = (_file if is_file else _module)(where, reference)
    task = _task(module, name, reference, where)
    source = f"{Path(where).name if is_file else where}:{name}"
    given = dict(task.description)
    if not given and content is not None:
        given["source_sha256"] = hashlib.sha256(content).hexdigest()
    task = replace(task, description={**given, "source": source})
    absolute = f"{Path(where).resolve()}:{name}" if is_file else reference
    object.__setattr__(task, "reference", {"load": absolute})
    return task


def _file(where: str, reference: str) -> tuple[ModuleType, bytes]:
    path = Path(where)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], 1)
        hint = f"did you mean {near[0]}?" if near else f"looked in {path.parent.resolve()}"
        raise UsageError(f"no file {where} for the task {reference!r}; {hint}") from None
    except OSError as error:
        raise UsageError(f"cannot read {where}: {error.strerror or error}") from None
    module = ModuleType(f"secateur_task_{path.stem}")
    module.__file__ = str(path.resolve())
    _first_on_path(path.parent)
    # Run from the very bytes that are hashed, and in sys.modules as dataclasses need it.
    sys.modules[module.__name__] = module
    _run(lambda: exec(compile(content, module.__file__ or where, "exec"), vars(module)), reference)
    return module, content


def _module(where: str, reference: str) -> tuple[ModuleType, bytes | None]:
    if not all(part.isidentifier() for part in where.split(".")):
        raise UsageError(f"{reference!r} names no task; give {FORM}")
    _first_on_path(Path())
    importlib.invalidate_caches()
    module = _run(lambda: importlib.import_module(where), reference, where)
    file = getattr(module, "__file__", None)
    return module, Path(file).read_bytes() if file else None


def _task(module: ModuleType, name: str, reference: str, where: str) -> Task:
    tasks = [key for key, value in vars(module).items() if isinstance(value, Task)]
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, tasks, 1)
        found = f"its tasks are {', '.join(tasks)}" if tasks else "it holds no secateur.Task at all"
        hint = f"; did you mean {where}:{near[0]}?" if near else ""
        raise UsageError(f"{where} has nothing named {name!r}: {found}{hint}")
    value = getattr(module, name)
    called = not isinstance(value, Task) and callable(value)
    if called:
        if needed := _needed(value):
            raise UsageError(
                f"{reference} takes {', '.join(needed)}; a function that gives a task takes nothing"
            )
        value = _run(value, reference)
    if not isinstance(value, Task):
        verb = "returns a value" if called else "is"
        found = f" (its tasks are {', '.join(tasks)})" if tasks else ""
        raise UsageError(
            f"{reference} {verb} of type {type(value).__name__}, not a secateur.Task, nor a "
            f"function without arguments that returns one{found}"
        )
    return value


def _needed(function: Callable[..., object]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in ones have none to read
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]


def _run(call: Callable[[], T], reference: str, module: str = "") -> T:
    """Run a user's code; what it raises becomes one clear error with the line."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        lacks = error.name if module and isinstance(error, ModuleNotFoundError) else None
        if lacks and f"{module}.".startswith(f"{lacks}."):
            raise UsageError(
                f"no module {lacks!r} for the task {reference!r}, neither in {Path.cwd()} nor "
                f"installed; a file is named with its ending: {FORM}"
            ) from None
        raise UsageError(f"cannot load the task {reference!r}: {told(error)}") from error


def _first_on_path(folder: Path) -> None:
    text = str(folder.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)
