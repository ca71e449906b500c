"""Which layers the weights are taken from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import product

from secateur.study.report.charts.chart import Chart, Record, short
from secateur.study.report.units import percent
from secateur.study.rows import Row
from secateur.study.summary import Summary


def chart(summary: Summary, spec: Record, stages: Sequence[Record]) -> Chart | None:
    """Show the share of each layer that each row keeps; None where no record names a layer."""
    totals = {name: of for row in summary.rows for name, (_, of) in row.layers.items()}
    if not totals:
        return None

    def hover(row: Row, name: str) -> str:
        if name not in row.layers:
            return "no record"
        kept, total = row.layers[name]
        return (
            f"<b>{escape(name)}</b>, {percent(row.sparsity)} sparse over all<br>"
            f"{kept:,.0f} of {total:,} kept ({100 * kept / max(total, 1):.2f} %)"
        )

    shown = {pair: summary.of(*pair) for pair in product(spec["criteria"], spec["recovery"])}
    return Chart(
        title="Where are the weights taken from?",
        about="Share of weights kept in each layer at each level",
        caption="Weights kept in each prunable layer (in the order of the network, input first) "
        "at every level, for the criterion chosen above; mean over seeds. A cross marks an empty "
        "layer. {{excluded}}",
        beside='<p class="now" data-now="cut"></p>',
        height=max(190, 92 + 27 * len(totals)),
        x="sparsity of the whole network (%)",
        rows=short(list(totals)),
        cells=[
            {
                "columns": [f"{round(100 * row.sparsity, 8):g}" for row in rows],
                "values": [
                    [
                        100 * row.layers[name][0] / max(total, 1) if name in row.layers else None
                        for row in rows
                    ]
                    for name, total in totals.items()
                ],
                "hover": [[hover(row, name) for row in rows] for name in totals],
                "when": {"criterion": criterion, "recovery": recovery},
            }
            for (criterion, recovery), rows in shown.items()
        ],
    )
