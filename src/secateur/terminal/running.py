"""`secateur study` while it trains: in which order, so that no core has nothing to do."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from rich.console import Console

from secateur.errors import StudyError
from secateur.study.executors.cluster import Cluster
from secateur.study.executors.local import execute
from secateur.study.executors.ray import on_ray
from secateur.study.executors.turn import Execute
from secateur.study.plan import Event, Observer
from secateur.study.results import Results
from secateur.study.study import Study
from secateur.terminal.measuring import matched
from secateur.terminal.progress import StudyProgress


def completed(
    job: Study,
    follow: Observer,
    *,
    shown: Console,
    console: Console,
    workers: int,
    cluster: Cluster | None,
    measures: bool,
) -> Results:
    """Do all of a study; where networks are measured, with the dense network that is as fast.

    How wide that is can be measured when the first seed is done, and nothing may run beside it. If
    the other seeds were done by then, only networks of that width would be left to train, one for
    each seed, which seldom come out even among the processes. So as many seeds as there are
    processes come first, then the width, and then all that is left side by side.

    Args:
        job: the study.
        follow: told of every item, beside the progress that is shown.
        shown: where progress is shown.
        console: where it is said what is being measured.
        workers: how many processes, or slots of a cluster.
        cluster: where it is done; None: here.
        measures: whether networks are to be measured.

    Raises:
        UsageError, StudyError, DataError, FileError: as `Study.run` and `Study.match`.
    """

    searches = measures and job.unmatched
    progress = StudyProgress(
        job.spec,
        shown,
        workers=workers,
        cluster=cluster,
        matched=searches or not job.unmatched,
    )

    def observe(event: Event) -> None:
        progress(event)
        follow(event)

    def done(executor: Execute | None) -> Results:
        with progress:
            return job.run(observe, workers=workers, executor=executor)

    def found() -> bool:
        if matched(job, console=console):
            return True
        progress.expect_none_as_fast()
        return False

    executor = None if cluster is None else on_ray(cluster)
    if searches and cluster is None and 1 < workers < len(job.spec.seeds):
        first = partial(execute, workers=workers, seeds=workers)
        with suppress(StudyError):  # what failed is tried once more below, and told of there
            done(first)
            found()
            searches = False
    results = done(executor)
    if searches and found():
        results = done(executor)
    return results
