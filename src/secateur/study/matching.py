"""How wide a dense network may be, to be as fast as a cut one: found by timing both in turn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from secateur import machine
from secateur.bench.preparation import prepared
from secateur.bench.race import BUSY
from secateur.bench.result import Result, Speedup
from secateur.compiler import pipeline
from secateur.errors import SecateurError
from secateur.export import to_onnx
from secateur.model.inputs import head
from secateur.study import artifacts
from secateur.study.matched import Matched, Tried
from secateur.study.plan import Trial
from secateur.training import Data

BATCH = 1
"""Batch size at which networks are to be as fast."""
NOISE = 0.02
"""By how much a dense network's time may exceed the cut one's: as far as times repeat."""
FINEST = 1 / 64
"""Widths that differ by less are not told apart."""
ROUNDS, SECONDS = 10, 0.05
_CUT, _DENSE = "cut", "dense"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed:
    """A dense network beside the cut one; milliseconds, and what others took of the cores."""

    latency_ms: float
    ratio: float
    cut_ms: float
    others: float | None


def widest(
    timed: Callable[[float], T],
    ratio: Callable[[T], float],
    form: Callable[[float], Hashable],
) -> tuple[float | None, dict[float, T]]:
    """Return the largest width whose network is as fast, by halving the range of widths.

    Args:
        timed: width → its network's time; asked once for each network.
        ratio: of such a time to that of the cut network.
        form: width → what tells one network from another: widths of equal form are not timed
            twice.

    Returns:
        The width; None where even that of 0, the narrowest, is slower, 1 where the uncut network
        is as fast. And each width that was timed, from the widest.
    """
    found = {1.0: timed(1.0)}
    forms = {form(1.0): 1.0}

    def fast(width: float) -> bool:
        known = forms.setdefault(form(width), width)
        if known not in found:
            found[known] = timed(known)
        return ratio(found[known]) <= 1 + NOISE

    low, high = 0.0, 1.0
    if fast(1.0):
        return 1.0, found
    while high - low > FINEST:
        middle = (low + high) / 2
        low, high = (middle, high) if fast(middle) else (low, middle)
    return forms[form(low)] if low else None, dict(sorted(found.items(), reverse=True))


def steady(race: Callable[[], Timed]) -> Timed:
    """Return what a race gives; where others took the cores, the middle one of three by its ratio.

    One core more or less for a while may double one network's time and not the other's.
    """
    first = race()
    if first.others is None or first.others <= BUSY:
        return first
    return sorted((first, race(), race()), key=lambda timed: timed.ratio)[1]


def match(
    cut: Trial,
    network: Callable[[], nn.Module],
    narrow: Callable[[float], nn.Module],
    data: Data,
    *,
    int8: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Matched:
    """Find the widest dense network that is as fast as a cut one, both compiled here.

    They run in turn, in processes of their own, on one thread for each physical core; only the
    ratio of their times in the same rounds counts, so that other work on the machine, which hits
    both, changes little; and where there is much of it, they run three times.

    Args:
        cut: whose network it is.
        network: makes the cut network.
        narrow: width in (0, 1] → a fresh dense network.
        data: of the task, on the CPU.
        int8: seed of the examples that the cut network is quantised with; None: both stay float.
        progress: told what is going on.

    Returns:
        Where nothing can be compiled or timed here, or no width will do, `why` says so.
    """
    example = head(next(iter(data.evaluation("validation")))[0], 2)
    timings: dict[float, Timed] = {}
    width, why = None, ""

    def parameters(width: float) -> tuple[torch.Size, ...]:
        return tuple(each.shape for each in narrow(width).parameters())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def timed(width: float) -> Timed:
            progress(f"timing a dense network of width {width:.3g}")
            dense = _filled(narrow(width))
            content = to_onnx(dense, example) if int8 is None else artifacts.quickly(dense, data)
            path = folder / f"dense-{width!r}.so"
            pipeline.compile_network(content, name="dense").write(path)

            def race() -> Timed:
                with prepared({_CUT: folder / "cut.so", _DENSE: path}, "", agree=False) as contest:
                    return _of(contest.race((BATCH,), rounds=ROUNDS, seconds=SECONDS))

            return steady(race)

        try:
            progress("compiling the cut network")
            content = (
                to_onnx(network(), example)
                if int8 is None
                else artifacts.quantised(network(), data, int8).content
            )
            pipeline.compile_network(content, name="cut").write(folder / "cut.so")
            width, timings = widest(timed, lambda each: each.ratio, parameters)
            why = _why(width, timings)
        except (SecateurError, OSError) as error:
            why = str(error)
    counts = {each: sum(map(math.prod, parameters(each))) for each in timings}
    return Matched(
        cut=cut,
        batch=BATCH,
        threads=len(machine.cores_for(None)),
        int8=int8 is not None,
        width=None if why else width,
        why=why,
        tried=tuple(
            Tried(width=each, parameters=counts[each], latency_ms=t.latency_ms, ratio=t.ratio)
            for each, t in timings.items()
        ),
        cut_ms=timings[width].cut_ms if width in timings and not why else None,
        others=_most(each.others for each in timings.values()),
        machine=machine.describe(),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _of(result: Result) -> Timed:
    times = {timing.engine: timing for timing in result.timings}
    ratio = Speedup.of(times[_CUT], times[_DENSE]).median
    return Timed(1000 * times[_DENSE].p50, ratio, 1000 * times[_CUT].p50, result.others)


def _why(width: float | None, timings: dict[float, Timed]) -> str:
    """Say why there is no dense network to compare with, where there is none."""
    if width == 1:
        return (
            f"the uncut network takes {timings[1.0].ratio:.2f} times as long as the cut one here, "
            "so it is as fast itself"
        )
    if width is None:
        narrowest = min(timings)
        return (
            f"even at width {narrowest:.2g} a smaller dense network takes "
            f"{timings[narrowest].ratio:.2f} times as long as the cut one"
        )
    return ""


def _most(shares: Iterable[float | None]) -> float | None:
    return max((share for share in shares if share is not None), default=None)


def _filled(model: nn.Module) -> nn.Module:
    """Return a network without zeros among what is trained, as training leaves it: zeros are fast.

    Fresh networks may have them, for example in convolutions that begin as the identity.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                drawn = torch.randn(parameter.shape, generator=generator)
                scale = math.prod(parameter.shape[1:]) ** -0.5
                parameter.copy_(torch.where(parameter == 0, scale * drawn, parameter))
    return model.eval()
