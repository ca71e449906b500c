"""A benchmark's result as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from secateur.bench.race import BUSY
from secateur.bench.result import Result, Speedup, Step, Timing
from secateur.console import Words


def view(result: Result) -> RenderableType:
    """Return a table for each batch size, what is slower or could not be measured, and steps."""
    parts: list[RenderableType] = [_table(result, batch) for batch in result.batches]
    ours = result.timings[0].engine if result.timings else ""
    for loss in result.losses:
        parts.append(
            Words(
                f"{ours} is slower than {loss.over} at batch {loss.batch}: {times(loss)}",
                "bold red",
            )
        )
    parts += [
        Words(f"not measured at batch {r.batch}: {r.why}", "red", lines=True)
        for r in result.refusals
    ]
    if result.others is not None and result.others > BUSY:
        parts.append(
            Words(
                f"other processes took {100 * result.others:.0f} % of the cores; measure again "
                "when the machine is quiet",
                "red",
            )
        )
    parts += [Words(note, "yellow") for note in result.notes]
    for batch in dict.fromkeys(step.batch for step in result.steps):
        parts.append(_steps(result, [step for step in result.steps if step.batch == batch]))
    parts.append(Words(conditions(result), "dim"))
    return Group(*parts)


# All columns must fit a terminal of 80, so related figures stand in two lines of one.
_NARROW: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": 0}


def times(speedup: Speedup) -> str:
    """Return a speed-up in words: its median and what 80 % of the rounds lie between."""
    return f"{speedup.median:.2f}× ({speedup.low:.2f}–{speedup.high:.2f})"


def conditions(result: Result) -> str:
    """Return what was measured, how and on what, in one paragraph."""
    machine = result.machine
    where = "bound to cores" if result.pinned else "not bound; first of cores"
    facts = [
        f"{result.model}, random inputs, {result.date}.",
        f"{machine['cpu']}, {machine['os']};",
        f"{result.threads} thread{'s' * (result.threads > 1)},",
        f"{where} {','.join(map(str, result.cores))}.",
        f"{result.rounds} rounds; in each, every engine in turn for {result.seconds:g} s after a "
        "warm-up.",
        "Below each engine: its version, and the precision it ran at. Differ by: its outputs, from "
        "those of the first engine in f32.",
        "p50 and p95: of all runs. Per second: median of rounds. Speed-up: median of the rounds' "
        "ratios, 10–90 % in brackets.",
        "Memory: the most that the engine's process held, Python and numpy included.",
    ]
    if result.others is not None:
        facts.append(f"Other processes took {100 * result.others:.0f} % of these cores meanwhile.")
    if result.compile is not None:
        facts.append(f"Compiled in {result.compile:.1f} s.")
    if result.timings and result.timings[0].price is not None:
        facts.append("Cost: an estimate, price an hour / 3600 / throughput × 10⁶.")
    return " ".join(facts)


def _table(result: Result, batch: int) -> Table:
    timings = result.at(batch)
    speedups = {s.over: times(s) for s in result.speedups if s.batch == batch}
    costs = timings[0].cost is not None
    energy = any(timing.joules is not None for timing in timings)
    view = Table(title=f"batch {batch}", title_justify="left", header_style="bold", **_NARROW)
    view.add_column("engine", no_wrap=True)
    columns = ["p50 ms\np95 ms", "per\nsecond", "memory\nfile MB", "differ\nby"]
    columns += ["cost a\nmillion"] * costs + ["J\neach"] * energy
    for column in columns:
        view.add_column(column, justify="right")
    view.add_column("speed-up", justify="right", no_wrap=True)
    for timing in timings:
        extra = [f"{timing.cost:.4g}" if timing.cost is not None else "-"] * costs
        extra += [f"{timing.joules:.3g}" if timing.joules is not None else "-"] * energy
        view.add_row(
            Words(
                f"{timing.engine}\n{timing.version}\n{timing.precision}", lines=True
            ),  # it must fit 80 columns
            *_numbers(timing),
            *extra,
            Words(speedups.get(timing.engine, "").replace(" (", "\n("), lines=True),
        )
    return view


def _numbers(timing: Timing) -> list[str]:
    memory = "-" if timing.memory is None else f"{timing.memory / 1e6:.0f}"
    return [
        f"{1e3 * timing.p50:.3f}\n{1e3 * timing.p95:.3f}",
        f"{timing.throughput:,.0f}",
        f"{memory}\n{timing.file / 1e6:.2f}",
        "-" if timing.difference is None else f"{timing.difference:.1e}" * bool(timing.difference),
    ]


def _steps(result: Result, steps: list[Step]) -> Table:
    total = sum(step.seconds for step in steps) or 1.0
    roof = result.roofline
    measured = (
        f"; the roofline, measured, is {roof.registers / 1e9:.0f} Gop/s from registers and "
        f"{roof.cache / 1e9:.0f} with an operand from the first-level cache"
        + (f"; of int8, by dot products, {roof.dots / 1e9:.0f}" if roof.dots else "")
        if roof
        else ""
    )
    view = Table(
        title=f"steps at batch {steps[0].batch}",
        title_justify="left",
        header_style="bold",
        **_NARROW,
        caption=f"speed and roofline: on the non-zeros{measured}",
        caption_justify="left",
    )
    for column in ("op", "layer", "kernel"):
        view.add_column(column, overflow="fold")
    for column in ("non-\nzeros", "ms", "share", "Gop/s", "of roof-\nline"):
        view.add_column(column, justify="right")
    for step in steps:
        works, peak = step.macs > 0, roof.of(step.kernel) if roof else 0.0
        view.add_row(
            Words(step.op),
            Words(_shortened(step.layer)),
            Words(step.kernel),
            f"{step.nonzeros:,}" if works else "",
            f"{1e3 * step.seconds:.3f}",
            f"{100 * step.seconds / total:.1f} %",
            f"{step.speed / 1e9:.0f}" if works else "",
            f"{100 * step.speed / peak:.0f} %" if works and peak else "",
        )
    return view


def _shortened(name: str, most: int = 160) -> str:
    """Return a name that takes a few lines of a table at most: its begin and its end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-most // 2 :]}"
