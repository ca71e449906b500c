"""Do what the plan says and leave a record of each item; what has a record is not done again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from secateur.errors import SecateurError, StudyError
from secateur.study.failure import told
from secateur.study.plan import Stage, Trial, plan
from secateur.study.runner import Event, Observer, Runner, feasible
from secateur.study.spec import Spec
from secateur.study.store import Store, UnwritableError
from secateur.study.task import Task

__all__ = ["Event", "Observer", "execute", "feasible", "network"]


def execute(
    task: Task, spec: Spec, store: Store, device: torch.device, observe: Observer
) -> tuple[str, ...]:
    """Do every item of the plan that has no record yet.

    Args:
        task: what is trained; its data is loaded once, if there is anything to do.
        spec: of that task.
        store: open.
        device: where to train and measure.
        observe: told of every item as it begins and ends.

    Returns:
        Why items could not be done, one line per failure; empty when the study is complete. An
        item whose stage failed is left out: the stage's own line says why.

    Raises:
        StudyError, FileError: the study's own files cannot be read back or written.
        Exception: what the observer raises.
    """
    with _deterministic(device):
        return _execute(task, spec, store, device, observe)


def network(task: Task, spec: Spec, store: Store, device: torch.device, trial: Trial) -> nn.Module:
    """Return the network of a trial, cut and recovered, in evaluation mode.

    A stage whose checkpoint is not there, or is damaged, is trained first.

    Raises:
        StudyError: a stage that it comes from failed when the study was run, or the task's own
            code raises an exception.
    """
    for stage in (trial.after.after, trial.after):
        if stage is not None and (why := store.why_failed(stage)):
            raise StudyError(
                f"{stage.id} failed when the study was run, so {trial.id} has no network: {why}; "
                "mend that, and run the study again"
            )
    # also for a caller who only infers: the network may have to be trained
    with _deterministic(device), torch.inference_mode(False), torch.enable_grad():
        try:
            return Runner(task, spec, store, device, lambda event: None).network(trial).eval()
        except SecateurError:
            raise
        except Exception as error:
            raise StudyError(
                f"the network of {trial.id} cannot be made: {told(error)}; mend the task"
            ) from error


def _execute(
    task: Task, spec: Spec, store: Store, device: torch.device, observe: Observer
) -> tuple[str, ...]:
    runner: Runner | None = None
    failures: list[str] = []
    failed: set[Stage] = set()
    observer = _Observed(observe)
    for item in plan(spec):
        if item.after in failed:
            if isinstance(item, Stage):
                failed.add(item)
            observer(Event("omitted", item))
            continue
        if (record := store.read(item)) is not None:
            observer(Event("found", item, record))
            continue
        runner = runner or Runner(task, spec, store, device, observer)
        observer(Event("begin", item))
        try:
            record = runner.stage(item) if isinstance(item, Stage) else runner.trial(item)
        except Exception as error:  # of the task's own code, too: the others are none the worse
            if observer.error is not None:
                raise observer.error from None
            if isinstance(error, (StudyError, UnwritableError)):
                raise
            failures.append(store.write_failure(item, error))
            if isinstance(item, Stage):
                failed.add(item)
            record = None
        if record is None:
            runner.forget()  # here, where no traceback holds on to what filled the memory
            observer(Event("failed", item))
        else:
            observer(Event("done", item, record))
    return tuple(failures)


class _Observed:
    """An observer whose exceptions are told from those of a task, in whose loop it is called."""

    error: Exception | None = None

    def __init__(self, observe: Observer) -> None:
        self._observe = observe

    def __call__(self, event: Event) -> None:
        try:
            self._observe(event)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU, ask for kernels that give the same sums each time; a CPU's do."""
    before = torch.get_deterministic_debug_mode()
    if device.type == "cuda":
        torch.set_deterministic_debug_mode("warn")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
