"""Do what the plan says and leave a record of each item; what has a record is not done again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from secateur.errors import SecateurError, StudyError
from secateur.study.failure import told
from secateur.study.plan import Event, Observer, Stage, Trial, plan
from secateur.study.runner import Runner
from secateur.study.store import Store, UnwritableError
from secateur.study.subject import Subject


def execute(subject: Subject, store: Store, observe: Observer) -> tuple[str, ...]:
    """Do every item of the plan that has no record yet.

    Args:
        subject: of the study; its data is loaded if there is anything to do.
        store: open.
        observe: told of every item as it begins and ends.

    Returns:
        Why items could not be done, one line per failure; empty when the study is complete. An
        item whose stage failed is left out: the stage's own line says why.

    Raises:
        StudyError, FileError: the study's own files cannot be read back or written.
        UsageError: the data cannot be loaded.
        Exception: what the observer raises.
    """
    runner: Runner | None = None
    failures: list[str] = []
    failed: set[Stage | Trial | None] = set()
    of_observer: list[Exception] = []  # told from those of a task, in whose loop it is called

    def observer(event: Event) -> None:
        try:
            observe(event)
        except Exception as error:
            of_observer.append(error)
            raise

    with _deterministic(subject.device):
        for item in plan(subject.spec):
            if item.after in failed:
                failed.add(item)
                observer(Event("omitted", item))
                continue
            if (record := store.read(item)) is not None:
                observer(Event("found", item, record))
                continue
            runner = runner or Runner(subject, store, observer)
            observer(Event("begin", item))
            try:
                record = runner.do(item)
            except Exception as error:  # of the task's own code, too: the others are none the worse
                if of_observer:
                    raise of_observer[0] from None
                if isinstance(error, (StudyError, UnwritableError)):
                    raise
                failures.append(store.write_failure(item, error))
                failed.add(item)
            if record is None:
                runner.forget()  # here, where no traceback holds on to what filled the memory
            observer(Event("done" if record else "failed", item, record))
    return tuple(failures)


def network(subject: Subject, store: Store, trial: Trial) -> nn.Module:
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
    with _deterministic(subject.device), torch.inference_mode(False), torch.enable_grad():
        try:
            return Runner(subject, store, lambda event: None).network(trial).eval()
        except SecateurError:
            raise
        except Exception as error:
            raise StudyError(
                f"the network of {trial.id} cannot be made: {told(error)}; mend the task"
            ) from error


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
