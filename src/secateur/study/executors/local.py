"""On this machine: in this process, or in several, which do the groups of the plan side by side."""

from __future__ import annotations

import torch
from torch import nn

from secateur import machine
from secateur.errors import SecateurError, StudyError
from secateur.study.executors.processes import in_processes
from secateur.study.executors.turn import Turn, reproducible
from secateur.study.failure import told
from secateur.study.plan import Observer, Stage, Trial, groups, needs
from secateur.study.runner import Runner
from secateur.study.spec import Spec
from secateur.study.store import Store
from secateur.study.subject import Subject
from secateur.study.task import Task


def workers_for(task: Task, spec: Spec, device: torch.device, asked: int | None) -> tuple[int, str]:
    """Return how many processes do a study, and why not as many as were asked for, if so.

    Args:
        task: of the study.
        spec: of the study.
        device: of the study.
        asked: how many; None: one for each physical core, and no more than have work.
    """
    if device.type == "cuda":
        return 1, "" if asked in (None, 1) else "one process does a study on a GPU"
    if task.reference is None:
        why = (
            f"task {task.name!r} was made in this process and cannot be imported in "
            "others, so one process does the study; give it as FILE.py:NAME, with load_task in "
            "Python, for more"
        )
        return 1, "" if asked == 1 else why
    useful = max(1, sum(1 for group in groups(spec.options, spec.seeds) if group.after))
    return min(asked or machine.physical_cores(), useful), ""


def execute(
    subject: Subject,
    store: Store,
    observe: Observer,
    *,
    workers: int = 1,
    seeds: int | None = None,
) -> tuple[str, ...]:
    """Do every item of the plan that has no record yet.

    Args:
        subject: of the study; its data is loaded if there is anything to do.
        store: open.
        observe: told of every item as it begins and ends.
        workers: how many processes; numbers do not depend on it.
        seeds: how many of the study's seeds, from its first; None: all of them.

    Returns:
        Why items could not be done, one line per failure; empty when the study is complete. An
        item whose stage failed is left out: the stage's own line says why.

    Raises:
        StudyError, FileError: the study's own files cannot be read back or written.
        UsageError: the data cannot be loaded.
        Exception: what the observer raises.
    """
    spec = subject.spec
    planned = groups(spec.options, spec.seeds, matched=store.can_match)
    now = set(spec.seeds[:seeds])
    later = {at for at, group in enumerate(planned) if group.items[0].seed not in now}
    if workers > 1:
        return in_processes(subject, store, observe, planned, workers, later)
    turn = Turn(subject, store, observe)
    for at, group in enumerate(planned):
        if at not in later:
            turn.do(group)
    return tuple(turn.failures)


def network(subject: Subject, store: Store, trial: Trial) -> nn.Module:
    """Return the network of a trial, cut and recovered, in evaluation mode.

    A stage whose checkpoint is not there, or is damaged, is trained first.

    Raises:
        StudyError: a stage that it comes from failed when the study was run, or the task's own
            code raises an exception.
    """
    options = subject.spec.options
    behind, new = set[Stage](), needs(options, trial)
    while new:
        behind |= new
        new = frozenset().union(*(needs(options, stage) for stage in new)) - behind
    for stage in sorted(behind, key=lambda stage: -stage.keep):
        if why := store.why_failed(stage):
            raise StudyError(
                f"{stage.id} failed when the study was run, so {trial.id} has no network: {why}; "
                "mend that, and run the study again"
            )
    # also for a caller who only infers: the network may have to be trained
    with reproducible(subject.device), torch.inference_mode(False), torch.enable_grad():
        try:
            return Runner(subject, store, lambda event: None).network(trial).eval()
        except SecateurError:
            raise
        except Exception as error:
            raise StudyError(
                f"the network of {trial.id} cannot be made: {told(error)}; mend the task"
            ) from error
