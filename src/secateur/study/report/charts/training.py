"""How the training went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from secateur.study.report.charts.chart import Chart, Record, Series, number
from secateur.study.report.palette import INK, Style, styles
from secateur.study.report.units import measure
from secateur.study.summary import GATE, Summary

_TINTS = {
    "train": Style("#57626b", "#9ca7b0", "", ""),
    "gates": replace(styles([GATE])[GATE], plotly="", matplotlib=""),
    "control": Style("#2a6a4c", "#86c9a5", "", ""),
}


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw loss and validation over epochs, a line for each stage and seed; None without a log."""
    logs = {(s["seed"], str(s["stage"])): s["log"] for s in stages if s.get("log")}
    if not logs:
        return None
    panels = {"loss": "training loss", "validation": f"validation {measure(summary)}"}
    if all(number(epoch.get("validation")) is None for log in logs.values() for epoch in log):
        del panels["validation"]
    lines = []
    for (seed, stage), log in logs.items():
        start = 0 if stage == "train" else len(logs.get((seed, "train"), ()))
        epochs = [start + (number(epoch.get("epoch")) or 0) for epoch in log]
        for panel, key in enumerate(panels):
            figures = [number(epoch.get(key)) for epoch in log]
            lines.append(
                Series(
                    name=stage,
                    style=_TINTS.get(stage, INK),
                    x=epochs,
                    y=figures,
                    hover=[
                        f"{escape(stage)}, seed {seed}<br>epoch {epoch:g}: {key} {figure or 0:#.4g}"
                        for epoch, figure in zip(epochs, figures, strict=True)
                    ],
                    panel=panel,
                )
            )
    return Chart(
        title="Training",
        about="Training loss of each epoch",
        caption="Mean training loss of each epoch"
        + " and {{metric}} on validation data" * (len(panels) - 1)
        + ", one line per seed. Phase 2 starts where phase 1 ended: through the cut (gates), and "
        "for as long with all weights (control). The loss of the gates is that of the cut "
        "network, so it lies above the control's.",
        height=140 + 160 * len(panels),
        series=lines,
        x="epoch",
        y=list(panels.values()),
    )
