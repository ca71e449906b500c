"""`secateur study` where it compiles and measures networks: a study that is done stays shown."""

from __future__ import annotations

import math

from rich.console import Console

from secateur.console import Words, spinner
from secateur.errors import CompileError, UsageError
from secateur.study.results import Results
from secateur.study.study import Study


def check_price(price: float, measure: bool | None) -> None:
    """Refuse a price before the hours that a study takes.

    Raises:
        UsageError: it is no price, or is given where nothing is to be measured.
    """
    if not 0 < price < math.inf:
        raise UsageError(f"--price is {price:g}, but must be a positive number of dollars an hour")
    if measure is False:
        raise UsageError("--price is of what is measured; leave out --no-measure or --price")


def matched(job: Study, *, console: Console) -> bool:
    """Return whether it was found what dense network is as fast as a study's cut one.

    Args:
        job: a study that was run.
        console: says what is going on.

    Raises:
        StudyError, FileError: as `Study.match`.
    """
    with console.status(Words("measuring"), spinner=spinner(console)) as status:
        found = job.match(progress=lambda text: status.update(Words(text)))
    return found is not None and found.width is not None


def measured(job: Study, price: float | None, *, asked: bool, console: Console) -> Results | None:
    """Return a study's results with its networks measured; the console gets the notes on that.

    Args:
        job: a study that was run.
        price: as of `Study.ship`.
        asked: whether the user said so. Otherwise None is returned where it cannot be done, and
            the console says why.
        console: says what is going on.

    Raises:
        UsageError, CompileError, StudyError, FileError: as `Study.ship`.
    """
    try:
        with console.status(Words("measuring"), spinner=spinner(console)) as status:
            results = job.ship(price=price, progress=lambda text: status.update(Words(text)))
    except (CompileError, UsageError) as error:
        if asked:
            raise
        console.print(Words(f"not measured: {error}", lines=True), soft_wrap=True)
        return None
    for note in results.summary.shipping:
        console.print(Words(f"note: {note}", lines=True), soft_wrap=True)
    return results
