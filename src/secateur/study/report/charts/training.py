"""How the training went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from secateur.study.options import LADDER, Options
from secateur.study.plan import GATE, SMALLER, START, UNCUT, down_to
from secateur.study.report.charts.chart import Chart, Record, Series, number
from secateur.study.report.palette import INK, Style, styles
from secateur.study.report.units import Units, measure
from secateur.study.rows import Row, grouped
from secateur.study.spec import options_of
from secateur.study.summary import Summary

_TINTS = {
    START: Style("#57626b", "#9ca7b0", "", ""),
    UNCUT: Style("#2a6a4c", "#86c9a5", "", ""),
    **{
        name: replace(style, plotly="", matplotlib="")
        for name, style in styles([GATE, "magnitude", *SMALLER]).items()
    },
}


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw loss and validation over epochs, a line for each network; None without a log."""
    options = options_of(spec)
    logs = grouped(((s["seed"], str(s["stage"])), s) for s in stages if s.get("log"))
    if not logs:
        return None
    lines = [_losses(seed, stage, found, options) for (seed, stage), found in logs.items()]
    measured = [row for row in summary.lines if _trained(row, options) is not None]
    panels = ["training loss"]
    if measured:
        panels.append(f"validation {measure(summary)}")
        lines += _validation(measured, options, Units.of(summary))
    return Chart(
        title="Training",
        about="Training loss of each epoch" + " and validation" * (len(panels) - 1),
        caption="Mean training loss of each pass, one line per seed"
        + (", and {{metric}} on validation data, mean over seeds" * (len(panels) - 1))
        + ". What comes after the start follows its outputs, so its loss is another; each rung "
        "begins at a higher rate and ends at none. The loss of gates that learn is that of the cut "
        "network.",
        height=320,
        series=lines,
        x="epoch",
        y=panels,
    )


def _losses(seed: int, stage: str, found: Sequence[Record], options: Options) -> Series:
    """Return the losses of one network, through all its rungs."""
    x: list[float] = []
    y: list[float | None] = []
    for record in sorted(found, key=lambda each: -float(each.get("keep", 1.0))):
        log = record["log"]
        begin, end = _span(stage, float(record.get("keep", 1.0)), options)
        for at, epoch in enumerate(log, 1):
            x.append(begin + (end - begin) * at / len(log))
            y.append(number(epoch.get("loss")))
    return Series(
        name=stage,
        style=_TINTS.get(stage, INK),
        x=x,
        y=y,
        hover=[
            f"{escape(stage)}, seed {seed}<br>epoch {at:.3g}: loss {loss or 0:#.4g}"
            for at, loss in zip(x, y, strict=True)
        ],
    )


def _validation(rows: Sequence[Row], options: Options, units: Units) -> list[Series]:
    """Return what networks could do at the end of the start and of their rungs."""
    return [
        Series(
            name=criterion,
            style=_TINTS.get(criterion, INK),
            x=[_trained(row, options) or 0.0 for row in found],
            y=[row.validation.mean for row in found],
            hover=[
                f"{escape(criterion)}, epoch {_trained(row, options):.3g}<br>"
                f"{units.value(row.validation.mean)}, n = {row.n}"
                for row in found
            ],
            panel=1,
        )
        for criterion, found in grouped((row.criterion, row) for row in rows).items()
    ]


def _span(stage: str, keep: float, options: Options) -> tuple[float, float]:
    """Return the epochs at which a stage begins and ends, counted from a fresh network."""
    if stage == START:
        return 0.0, float(options.epochs)
    if stage in SMALLER:
        return 0.0, options.epochs + down_to(options, keep)
    if not options.down:
        return float(options.epochs), options.epochs + options.gate_epochs
    end = options.epochs + down_to(options, keep)
    return end - options.epochs_of(keep), end


def _trained(row: Row, options: Options) -> float | None:
    """Return the epochs that a row's network was trained for; None where it is cut afterwards."""
    if row.criterion == START and row.recovery == "batchnorm":
        return float(options.epochs)
    if row.recovery == LADDER and (row.whole or row.keep in options.rungs):
        return options.epochs + down_to(options, row.keep)
    if row.criterion == UNCUT and row.recovery == "batchnorm":
        return options.epochs + options.gate_epochs
    return None
