"""A study that is there already, from its directory."""

from __future__ import annotations

from pathlib import Path

from secateur.errors import StudyError, printable
from secateur.study.command import is_built_in
from secateur.study.reading import read_spec, spec_hash
from secateur.study.spec import options_of
from secateur.study.study import Study
from secateur.study.task import LABEL_SMOOTHING, Task, classification


def opened(
    directory: Path, *, task: Task | None = None, data_dir: Path | None = None, device: str = "auto"
) -> Study:
    """Return the study in a directory, as `secateur study` wrote it.

    Args:
        directory: of the study.
        task: that it is of, if that is not a built-in one; a file that a study names is never
            run by itself.
        data_dir: of a built-in task's data.
        device: as of `Study`.

    Raises:
        StudyError: there is none, an older secateur made it, its task is not built in and was
            not given, or the one that was given is another.
    """
    spec = read_spec(directory)
    its, options = spec["task"], options_of(spec)
    if task is None:
        if not is_built_in(its):
            reference = printable(str(its.get("source", "mytask.py:task")))
            raise StudyError(
                f"the task of the study in {directory} is not built in; give it: "
                f"--task {reference}, or in Python opened(..., task=load_task({reference!r}))"
            )
        smoothing = its.get("label_smoothing", LABEL_SMOOTHING)
        task = classification(its["data"], its["net"], label_smoothing=smoothing, data_dir=data_dir)
    study = Study(task, options, out=directory, device=device)
    if study.spec.hash != spec_hash(spec):
        raise StudyError(
            f"the study in {directory} is not of task {task.name!r} as it is now: its file, "
            "description or metric has changed since; give the one that the study was run with"
        )
    return study
