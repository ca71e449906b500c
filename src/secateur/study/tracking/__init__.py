"""Follow a study elsewhere: each module but `observer`, `ledger` and `figures` is one tracker.

A tracker is a new file. Its function `connect` gets what the study is, and the run that it had
before, if any; what it returns is a `Tracker`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

from secateur.errors import UsageError

__all__ = ["TRACKERS", "Followed", "Tracker", "connected", "refuse_unknown"]

TRACKERS = tuple(
    sorted({each.name for each in iter_modules(__path__)} - {"figures", "ledger", "observer"})
)
"""Names of the trackers."""

Figure = tuple[str, float, int]
"""A figure's name, its value, and its step."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A study, as trackers see it."""

    name: str
    """Of its task."""
    address: str
    """SHA-256 of its spec, in hex."""
    directory: Path


class Tracker(Protocol):
    """One run of one tracker. Any method may raise any error."""

    @property
    def run(self) -> str:
        """What finds the run again."""

    def parameters(self, values: Mapping[str, str]) -> None:
        """Log what the study was told; once a run."""

    def figures(self, figures: Iterable[Figure]) -> None:
        """Log figures, and wait until they are safe."""

    def artifact(self, path: Path) -> None:
        """Log a file of the report, in place of the one of that name."""

    def close(self, *, done: bool) -> None:
        """End; `done` says whether all of the study is."""


def refuse_unknown(name: str) -> None:
    """Refuse a tracker that there is not, or whose package is not installed.

    Raises:
        UsageError: says which there are, or what to install.
    """
    if name not in TRACKERS:
        raise UsageError(f"there is no tracker {name!r}; choose one of {', '.join(TRACKERS)}")
    needed = import_module(f"{__name__}.{name}").NEEDS
    try:
        import_module(needed)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"following a study in {name} needs the package {error.name}: "
            f"pip install 'secateur[{name}]'"
        ) from None


def connected(name: str, study: Followed, run: str | None) -> Tracker:
    """Return a tracker of a study, on the run that it had before where that is still there.

    Raises:
        Exception: whatever the tracker's package raises.
    """
    return cast(Tracker, import_module(f"{__name__}.{name}").connect(study, run))
