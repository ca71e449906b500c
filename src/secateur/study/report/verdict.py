"""What a study comes to, in at most five lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.study.report.findings import headline
from secateur.study.report.units import percent, size
from secateur.study.shipped import Shipped
from secateur.study.summary import Summary

OURS = "secateur"
_INT8 = "int8"


def verdict(summary: Summary, spec: Mapping[str, Any], directory: Path) -> list[str]:
    """Return how much can go at what cost, how much faster and smaller that is, how to ship it.

    Where nothing is certified it says why, and what to do.

    Args:
        summary: of the study.
        spec: its JSON.
        directory: of the study, for the command that ships its network.
    """
    found = headline(summary, spec)
    lines = [found.sentence, *found.details]
    if found.row is None:
        return lines
    lines += shipped(summary, found.row.keep)
    keep = f"{found.row.keep:g}"
    lines.append(f"Ship it: {shlex.join(['secateur', 'compile', str(directory), '--keep', keep])}")
    return lines


def shipped(summary: Summary, keep: float) -> list[str]:
    """Return a line on a level's compiled network, where it was measured."""
    criterion, _ = summary.primary
    ours = [
        s for s in summary.shipped if (s.engine, s.criterion, s.keep) == (OURS, criterion, keep)
    ]
    if not ours:
        return []
    mine = ours[0]
    peers = [s for s in summary.shipped if s.engine != OURS]
    said = [
        f"{times:.2g} times as fast as {best.engine} at {_share(mine, best)} of its size"
        for wanted in (False, True)
        if (best := _fastest(peers, int8=wanted)) and (times := _ratio(best, mine))
    ]
    batch, spent = min(mine.latency_ms.items())
    return [
        f"Compiled here, it takes {spent:.3g} ms (batch {batch}) and {size(mine.bytes)} on disk"
        + (f": {'; '.join(said)}." if said else "; no other engine was measured.")
    ]


def certified(summary: Summary) -> str:
    """Return the certified sparsity of the primary sequence, in words."""
    least = summary.regions[summary.primary].lowest_keep
    return "none" if least is None else percent(1 - least)


def _fastest(peers: list[Shipped], *, int8: bool) -> Shipped | None:
    """Return the fastest peer, at batch 1 or the smallest that was measured."""
    found = [s for s in peers if s.precision.startswith(_INT8) == int8 and s.latency_ms]
    return min(found, key=lambda s: s.latency_ms[min(s.latency_ms)], default=None)


def _share(mine: Shipped, peer: Shipped) -> str:
    """Return a file's part of a peer's, two figures."""
    return percent(float(f"{mine.bytes / peer.bytes:.2g}"))


def _ratio(peer: Shipped, mine: Shipped) -> float | None:
    batch = min(mine.latency_ms)
    return peer.latency_ms[batch] / mine.latency_ms[batch] if batch in peer.latency_ms else None
