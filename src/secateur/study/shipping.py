"""Each level's network, compiled and measured on this machine, beside what else could be served.

The networks are those of the first seed and of the primary curve. Peers run the uncut network that
had as much training as the deepest level: what a user would serve without secateur, at a peer's
default precision and quantised to int8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.bench import environments
from secateur.bench.contest import Contest
from secateur.bench.preparation import prepared
from secateur.bench.result import Result
from secateur.compiler import pipeline
from secateur.errors import CompileError, SecateurError
from secateur.export import to_onnx
from secateur.model.inputs import head, run
from secateur.study import artifacts
from secateur.study.plan import AS_FAST, UNCUT
from secateur.study.shipped import Shipped
from secateur.study.summary import Summary
from secateur.study.task import Task
from secateur.training import Data

OURS = "secateur"
PEERS = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
BATCHES = (1, 64)
ROUNDS, SECONDS = 5, 0.1
MOST_BYTES = 2**29
"""Of test examples, and of what a network gives for them, that accuracy is taken of."""
_AS_FAST = "the dense network that is as fast"
BUSY = 0.05
"""Part of the cores' time from which on others disturb what is measured; the report says so."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What was measured, and what could not be."""

    measured: tuple[Shipped, ...]
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    date: str


def ship(
    networks: Mapping[float, Callable[[], nn.Module]],
    task: Task,
    summary: Summary,
    *,
    as_fast: Callable[[], nn.Module] | None = None,
    int8: int | None = None,
    price: float | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Shipment:
    """Compile networks and measure them.

    Args:
        networks: keep ratio → what makes its network, on the CPU; 1 is the uncut one.
        task: whose test examples and metric are used.
        summary: of the study: which levels are certified, and the curve that the networks are of.
        as_fast: makes the dense network that is as fast as one of them, where there is one.
        int8: seed of the training examples that what is cut is quantised with, and the dense one
            that is as fast; None: they are not.
        price: of an hour of this machine.
        progress: told what is going on.

    Returns:
        An entry for each network in secateur, and for the uncut one in each peer that is
        installed; notes say what is missing, and why.
    """
    data = task.data(torch.device("cpu"))
    uncut = networks[1.0]()
    entrants = _entrants({**networks, 1.0: lambda: uncut}, as_fast)
    inputs, targets = _examples(data, uncut)
    notes: list[str] = []
    if len(targets) < (total := sum(len(each) for _, each in data.evaluation("test"))):
        notes.append(f"accuracies are of the first {len(targets):,} of {total:,} test examples")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _compiled(entrants, data, int8, folder, notes, progress)
        if not files:
            return Shipment((), tuple(notes), {}, "")
        rivals = [peer for peer in PEERS if environments.here(environments.PEERS[peer])]
        if missing := [peer for peer in PEERS if peer not in rivals]:
            notes.append(f"not installed, so not measured: {', '.join(missing)}")
        with prepared(
            files,
            ",".join(rivals),
            onnx=folder / "uncut.onnx",
            calibrate=artifacts.calibration(data, 0),
            agree=False,
            progress=progress,
        ) as contest:
            result = contest.race(BATCHES, rounds=ROUNDS, seconds=SECONDS, price=price)
            notes += _said(result)
            scores = _scores(contest, result, task, inputs, targets, notes, progress)
    measured = tuple(
        _entry(engine, entrants.get(engine), result, scores[engine], summary) for engine in scores
    )
    return Shipment(measured, tuple(notes), result.machine, result.date)


def as_json(shipment: Shipment) -> dict[str, Any]:
    """Return JSON values, of which `of_json` makes the same."""
    return asdict(shipment)


def of_json(content: Mapping[str, Any]) -> Shipment:
    """Return what `as_json` was given.

    Raises:
        ValueError, UsageError: a figure cannot be one.
    """
    measured = []
    for entry in content["measured"]:
        times = {int(batch): float(ms) for batch, ms in entry["latency_ms"].items()}
        measured.append(Shipped(**{**entry, "latency_ms": times}))
    notes = tuple(map(str, content["notes"]))
    return Shipment(tuple(measured), notes, dict(content["machine"]), str(content["date"]))


@dataclass(frozen=True, slots=True)
class _Entrant:
    """A network of ours that takes part."""

    keep: float
    criterion: str
    """UNCUT, AS_FAST, or nothing: that of the claim."""
    make: Callable[[], nn.Module]

    @property
    def name(self) -> str:
        return AS_FAST if self.criterion == AS_FAST else f"keep {self.keep:g}"

    @property
    def served_in_int8(self) -> bool:
        return self.criterion != UNCUT


def _entrants(
    networks: Mapping[float, Callable[[], nn.Module]], as_fast: Callable[[], nn.Module] | None
) -> dict[str, _Entrant]:
    """Return our networks by their names in the race, the uncut one first."""
    found = {
        OURS if keep == 1 else f"{OURS} {keep:g}": _Entrant(keep, UNCUT if keep == 1 else "", make)
        for keep, make in sorted(networks.items(), reverse=True)
    }
    return found | ({f"{OURS} {AS_FAST}": _Entrant(1.0, AS_FAST, as_fast)} if as_fast else {})


def _compiled(
    entrants: Mapping[str, _Entrant],
    data: Data,
    int8: int | None,
    folder: Path,
    notes: list[str],
    progress: Callable[[str], None],
) -> dict[str, Path]:
    """Write an engine for each network, and the uncut one's ONNX file; the uncut one is a must."""
    example = head(next(iter(data.evaluation("validation")))[0], 2)
    found: dict[str, Path] = {}
    for number, (label, each) in enumerate(entrants.items()):
        what = _AS_FAST if each.criterion == AS_FAST else f"keep ratio {each.keep:g}"
        progress(f"compiling {what}")
        try:
            if int8 is not None and each.served_in_int8:
                content = artifacts.quantised(each.make(), data, int8).content
            else:
                content = to_onnx(each.make(), example)
            if each.criterion == UNCUT:
                (folder / "uncut.onnx").write_bytes(content)
            path = folder / f"{number}.so"
            pipeline.compile_network(content, name=each.name).write(path)
            found[label] = path
        except (SecateurError, OSError) as error:
            notes.append(f"{what} is not compiled: {error}")
            if each.criterion == UNCUT:
                return {}
    return found


def _examples(data: Data, model: nn.Module) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Return test inputs and targets, as many as fit the memory they may take with outputs."""
    taken: list[np.ndarray[Any, Any]] = []
    targets: list[Tensor] = []
    room, each = MOST_BYTES, 0
    for inputs, wanted in data.evaluation("test"):
        taken.append(artifacts.array(inputs))
        targets.append(wanted)
        if not each:
            with torch.inference_mode():
                each = run(model, head(inputs, 1)).nbytes
        room -= taken[-1].nbytes + len(wanted) * each
        if room <= 0:
            break
    return artifacts.joined(taken), torch.cat(targets)


def _said(result: Result) -> Sequence[str]:
    """Return what a race says beside its figures."""
    said = [f"{r.engine}, batch {r.batch}: {r.why}" for r in result.refusals]
    if result.others is not None and result.others > BUSY:
        said.append(
            f"other processes took {100 * result.others:.0f} % of the cores while this was "
            "measured, so times may be too long; the study's command with --measure repeats it"
        )
    return [*result.notes, *said]


def _scores(
    contest: Contest,
    result: Result,
    task: Task,
    inputs: np.ndarray[Any, Any],
    targets: Tensor,
    notes: list[str],
    progress: Callable[[str], None],
) -> dict[str, float]:
    """Return the metric of each engine that was timed, by its own outputs."""
    scores = {}
    for engine in dict.fromkeys(timing.engine for timing in result.timings):
        progress(f"test examples through {engine}")
        try:
            (outputs, *_) = contest.outputs(engine, inputs)
        except CompileError as error:
            notes.append(f"{engine}: {error}")
            continue
        values = task.metric.function(torch.from_numpy(outputs).float(), targets)
        scores[engine] = float(values.double().mean())
    return scores


def _entry(
    engine: str, entrant: _Entrant | None, result: Result, score: float, summary: Summary
) -> Shipped:
    timings = {t.batch: t for t in result.timings if t.engine == engine}
    most, criterion = timings[max(timings)], summary.primary[0]
    certified = summary.regions[summary.primary].certified
    keep = entrant.keep if entrant else 1.0
    whole = entrant.criterion if entrant else UNCUT
    return Shipped(
        keep=keep,
        criterion=whole or criterion,
        engine=OURS if entrant else engine,
        precision=most.precision,
        latency_ms={batch: 1000 * t.p50 for batch, t in timings.items()},
        bytes=most.file,
        peak_memory=most.memory or most.file,
        accuracy=score,
        cost_per_million=most.cost,
        energy_j=most.joules,
        certified=not whole and keep in certified,
    )
