"""What a study comes to, in at most five lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.study.command import is_built_in
from secateur.study.report.as_fast import gain
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
    found, dense = headline(summary, spec), gain(summary)
    lines = [found.sentence, *found.details]
    if found.row is None:
        return [*lines, dense] if dense else lines
    measured = shipped(summary, found.row.keep)
    lines += [" ".join([*measured, dense])] if dense else measured  # five lines at most
    return [*lines, f"Ship it: {_shipping(spec, directory, found.row.keep)}"]


def _shipping(spec: Mapping[str, Any], directory: Path, keep: float) -> str:
    """Return what compiles a level's network, as it can be pasted.

    A task of the user's own is given again, since a study never runs code that it names. Where it
    has no reference, because it was made in Python, it is a call there.
    """
    task = spec["task"]
    if not is_built_in(task) and "source" not in task:
        return f"secateur.compile(study.onnx({keep:g}), out='net.so')  # task: {task['name']}"
    own = [] if is_built_in(task) else ["--task", str(task["source"])]
    return shlex.join(["secateur", "compile", str(directory), "--keep", f"{keep:g}", *own])


def shipped(summary: Summary, keep: float) -> list[str]:
    """Return a line on a level's compiled network, where it was measured.

    At every batch size it is compared with the fastest peer that computes in float, and the
    fastest in int8: what could be served instead.
    """
    mine = compiled(summary, keep)
    if mine is None:
        return []
    peers = [s for s in summary.shipped if s.engine != OURS]
    rivals: dict[str, Shipped] = {}
    times = []
    for batch, spent in sorted(mine.latency_ms.items()):
        best = _fastest(peers, batch)
        rivals |= {peer.engine: peer for peer in best}
        ratios = [f"{p.latency_ms[batch] / spent:.2g} × {p.engine}" for p in best]
        against = f" (speed {', '.join(ratios)})" if ratios else ""
        times.append(f"{spent:.3g} ms at batch {batch}{against}")
    shares = [f"{_share(mine, peer)} of {peer.engine}" for peer in rivals.values()]
    against = f" ({', '.join(shares)})" if shares else "; no other engine was measured"
    return [f"Compiled here: {', '.join(times)}, {size(mine.bytes)} on disk{against}."]


def compiled(summary: Summary, keep: float) -> Shipped | None:
    """Return a level's compiled network of the primary sequence, where it was measured."""
    wanted = (OURS, summary.primary[0], keep)
    ours = (s for s in summary.shipped if (s.engine, s.criterion, s.keep) == wanted)
    return next(ours, None)


def _fastest(peers: Sequence[Shipped], batch: int) -> list[Shipped]:
    """Return the fastest peer that computes in float, and the fastest in int8, where there are."""
    timed = [peer for peer in peers if batch in peer.latency_ms]
    kinds = [[p for p in timed if p.precision.startswith(_INT8) == int8] for int8 in (False, True)]
    return [min(kind, key=lambda peer: peer.latency_ms[batch]) for kind in kinds if kind]


def _share(mine: Shipped, peer: Shipped) -> str:
    """Return a file's part of a peer's, two figures."""
    return percent(float(f"{mine.bytes / peer.bytes:.2g}"))
