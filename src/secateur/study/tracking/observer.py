"""An observer of a study that tells trackers what it sees; no tracker can hold or end the study.

Each tracker has a thread, and a queue in which the study leaves what is done. A tracker that fails
is told of once, and left alone from then on.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

from secateur.errors import printable
from secateur.study import report
from secateur.study.plan import Event
from secateur.study.results import Results
from secateur.study.study import Study
from secateur.study.tracking import Followed, Tracker, connected, refuse_unknown
from secateur.study.tracking.figures import of_record, of_summary, parameters
from secateur.study.tracking.ledger import Ledger

PATIENCE = 60.0
"""Seconds that a study which is done waits for its trackers."""


class TrackingWarning(UserWarning):
    """A tracker failed; the study goes on without it."""


def _warned(text: str) -> None:
    warnings.warn(text, TrackingWarning, stacklevel=2)


class Tracking:
    """Follow a study elsewhere; an observer for `Study.run`, in a `with` statement.

    Args:
        study: to follow.
        names: of trackers.
        warn: told when one fails, from another thread.

    Raises:
        UsageError: there is no such tracker, or its package is not installed.
    """

    def __init__(
        self, study: Study, names: Iterable[str], warn: Callable[[str], None] = _warned
    ) -> None:
        names = tuple(dict.fromkeys(names))
        for name in names:
            refuse_unknown(name)
        followed = Followed(study.task.name, study.spec.hash, study.directory)
        values = parameters(study.spec.as_json())
        ledger = Ledger(study.directory)
        self._threads = [_Following(name, followed, values, ledger, warn) for name in names]

    def __enter__(self) -> Tracking:
        return self

    def __call__(self, event: Event) -> None:
        """Take in one event of the study."""
        if event.kind in ("found", "done") and event.record is not None:
            item, record = event.item, event.record
            for thread in self._threads:
                thread.tell(item.id, lambda tracker: tracker.figures(of_record(item, record)))

    def results(self, results: Results) -> None:
        """Take in what the study found: its levels, and the files of its report."""
        figures = of_summary(results.summary)
        parts = (results.directory / name for name in report.NAMES)
        there = [path for path in parts if path.is_file()]
        said = hashlib.sha256(b"".join(path.read_bytes() for path in there)).hexdigest()

        def log(tracker: Tracker) -> None:
            tracker.figures(figures)
            for path in there:
                tracker.artifact(path)

        for thread in self._threads:
            thread.tell(f"report {said}", log)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for thread in self._threads:
            thread.end(done=kind is None)
        for thread in self._threads:
            thread.wait(PATIENCE if kind is None else 5.0)


class _Following:
    """One tracker, in a thread that begins with the first thing to log."""

    def __init__(
        self,
        name: str,
        study: Followed,
        values: Mapping[str, str],
        ledger: Ledger,
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._study, self._values = name, study, values
        self._ledger, self._warn = ledger, warn
        self._queue: queue.SimpleQueue[tuple[str, Callable[[Tracker], None]] | bool]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracking {name}", daemon=True)

    def tell(self, what: str, log: Callable[[Tracker], None]) -> None:
        """Have something logged, unless it was before."""
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put((what, log))

    def end(self, *, done: bool) -> None:
        """Have the tracker closed after all that."""
        self._queue.put(done)

    def wait(self, seconds: float) -> None:
        """Wait until it is closed, but not for ever."""
        if self._thread.ident is None:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._warn(
                f"{self._name} did not take all of the study within {seconds:.0f} s; give the "
                "study's command again, which logs the rest"
            )

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # of a package or a server of others
            why = printable(str(error).partition("\n")[0][:300]) or type(error).__name__
            self._warn(
                f"{self._name} cannot follow the study any more: {why}; the study goes on. Mend "
                "that, and give the study's command again, which logs the rest"
            )

    def _follow(self) -> None:
        run, logged = self._ledger.before(self._name)
        tracker = connected(self._name, self._study, run)
        if tracker.run != run:
            tracker.parameters(self._values)
            self._ledger.add(self._name, run=tracker.run)
            logged = set()
        while not isinstance(told := self._queue.get(), bool):
            what, log = told
            if what not in logged:
                log(tracker)
                self._ledger.add(self._name, logged=what)
                logged.add(what)
        tracker.close(done=told)
