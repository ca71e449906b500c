"""Do the items of one group; what has a record is not done again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from secateur.errors import StudyError
from secateur.study.plan import Event, Group, Item, Observer, needs
from secateur.study.runner import Runner
from secateur.study.store import Store, UnwritableError
from secateur.study.subject import Subject


@dataclass
class Turn:
    """One after the other, in one process and with one thread: what every executor does.

    `failed` has the items that could not be done, or are left out because of such, from wherever
    it is known; `failures` why, a line for each that was tried here.
    """

    subject: Subject
    store: Store
    observe: Observer
    failed: set[Item] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    _runner: Runner | None = None
    _of_observer: list[Exception] = field(default_factory=list)

    def do(self, group: Group) -> None:
        """Do every item of a group that has no record yet; its data is loaded if there is any.

        Raises:
            StudyError, FileError: the study's own files cannot be read back or written.
            UsageError: the data cannot be loaded.
            Exception: what the observer raises.
        """
        options = self.subject.spec.options
        with reproducible(self.subject.device):
            for item in group.items:
                if item in self.failed:  # it was tried in another process, which died of it
                    continue
                if needs(options, item) & self.failed:
                    self.failed.add(item)
                    self._tell(Event("omitted", item))
                elif (record := self.store.read(item)) is not None:
                    self._tell(Event("found", item, record))
                else:
                    self._do(item)

    def _do(self, item: Item) -> None:
        if self._runner is None:
            self._runner = Runner(self.subject, self.store, self._tell)
        self._tell(Event("begin", item))
        record = None
        try:
            record = self._runner.do(item)
        except Exception as error:  # of the task's own code, too: the others are none the worse
            if self._of_observer:
                raise self._of_observer[0] from None
            if isinstance(error, (StudyError, UnwritableError)):
                raise
            self.failures.append(self.store.write_failure(item, error))
            self.failed.add(item)
        if record is None:
            self._runner.forget()  # here, where no traceback holds on to what filled the memory
        self._tell(Event("done" if record else "failed", item, record))

    def _tell(self, event: Event) -> None:
        """Tell the observer, whose errors are told from those of a task, in whose loop it is."""
        try:
            self.observe(event)
        except Exception as error:
            self._of_observer.append(error)
            raise


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Compute with one thread, so that numbers do not depend on how many there are.

    On a GPU, ask for kernels that give the same sums each time; a CPU's do. cuBLAS's do with a
    workspace of a fixed size, which it reads when it is first used (NVIDIA's documentation of
    cuBLAS, "Results Reproducibility").
    """
    before, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("warn")
    else:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.set_num_threads(threads)


Execute = Callable[[Subject, Store, Observer], tuple[str, ...]]
"""What an executor is: it does every item of the plan that has no record, and returns why items
could not be done."""
