"""What the gates learned."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.study.plan import GATE
from secateur.study.report.charts.chart import Chart, Record, number, short
from secateur.study.report.palette import styles
from secateur.study.summary import Summary


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Draw each layer's importances as learned last, by seed; None where no gate was learned."""
    last = sorted((s for s in stages if s.get("gates")), key=lambda s: -float(s.get("keep", 1.0)))
    found = {stage["seed"]: stage["gates"] for stage in last}
    if not found:
        return None
    return Chart(
        title="What the gates learned",
        about="Histograms of the importance of each layer's weights",
        caption="Importance (magnitude plus gate) of each layer's weights, as the gates learned it "
        "last: on a ladder, of the weights that its last rung chose among. The height is the "
        "square root of the count, each layer to its own scale.",
        beside='<div class="controls"><label>seed <select data-choose="seed"></select></label>'
        "</div>",
        histograms=[
            {
                "name": name,
                "label": label,
                "style": styles([GATE])[GATE],
                "edges": list(map(number, layer["edges"])),
                "counts": list(map(number, layer["counts"])),
                "when": {"seed": seed},
            }
            for seed, layers in found.items()
            for label, (name, layer) in zip(short(list(layers)), layers.items(), strict=True)
        ],
    )
