"""The shell command that runs a study again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from secateur.study.options import Options
from secateur.study.spec import SMALLER, options_of
from secateur.study.task import ACCURACY, LABEL_SMOOTHING


def command_of(spec: dict[str, Any]) -> str:
    """Return the shell command that runs the study of a spec, options at their default left out.

    A task that is neither built in nor of `load_task` has no command: the Python call is shown.
    """
    given, task = asdict(options_of(spec)), spec["task"]
    changed = {
        field.name: given[field.name]
        for field in fields(Options)
        if given[field.name] != field.default and not _implied(field.name, given, task)
    }
    if is_built_in(task):
        if changed.get("margin") == ACCURACY.declared:
            del changed["margin"]
        words = ["--data", str(task["data"]), "--net", str(task["net"])]
        if task.get("label_smoothing", LABEL_SMOOTHING) != LABEL_SMOOTHING:
            words += ["--label-smoothing", str(task["label_smoothing"])]
    elif "source" in task:
        words = [str(task["source"])]
    else:
        arguments = "".join(f", {name}={value!r}" for name, value in changed.items())
        return f"secateur.Study(task{arguments}).run()  # task: {task['name']}"
    for option, value in changed.items():
        name = option.replace("_", "-")
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        switch = [f"--{name}" if value else f"--no-{name}"]
        words += switch if isinstance(value, bool) else [f"--{name}", text]
    return shlex.join(["secateur", "study", *words])


def _implied(name: str, given: dict[str, Any], task: dict[str, Any]) -> bool:
    """Return whether an option says what the study would have without it."""
    if name == "primary":
        return bool(given[name] == "/".join(Options(**{**given, "primary": ""}).claim))
    if name == "smaller":
        rungs = Options(**{**given, "smaller": 0.0}).rungs
        has = is_built_in(task) or given[name] > 0
        return bool(given[name] == (SMALLER if has and SMALLER in rungs else 0.0))
    return False


def is_built_in(task: Mapping[str, Any]) -> bool:
    """Whether the task is one of `classification`; a user's may describe itself by a net too."""
    return "source" not in task and task["name"] == f"{task.get('data')}/{task.get('net')}"
