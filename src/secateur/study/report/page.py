"""The page: one HTML file that needs nothing else, on any screen, without a network.

`page.html` is the frame, `page.css` its looks, the scripts in `_SCRIPTS` its behaviour; Plotly is
put in whole. A content security policy lets only these very scripts run (by their hashes) and
nothing be fetched, so that no text in a record can do harm.

Ids that a test may rely on: `keep` (range), `criterion` and `recovery` (selects), `theme`
(button), `everything` (checkbox), `save-results` and `save-NAME` of each chart (buttons); the
explorer's figures `out-keep`, `out-metric`, `out-interval`,
`out-difference`, `out-difference-interval`, `out-certified`, `out-kept`, `out-prunable`,
`out-parameters`, `out-bytes`, each with the bare figure in its `data-value`; `chart-NAME` of each
chart; the tables `table-results`, `table-comparisons`, `table-shipped`, `table-times`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from secateur.study.command import is_built_in
from secateur.study.options import LADDER
from secateur.study.plan import UNCUT
from secateur.study.report import tables
from secateur.study.report.as_fast import compared, gain
from secateur.study.report.charts.chart import Chart, Record
from secateur.study.report.findings import Headline, Notice, warnings
from secateur.study.report.units import Units, counted, curve_name, percent, recovery_name, size
from secateur.study.report.verdict import compiled, shipped
from secateur.study.summary import Summary

_SCRIPTS = ("charts.js", "lines.js", "cells.js", "downloads.js", "page.js")
"""In this order: each uses those before it."""
_FEW = 3  # items that a banner shows unfolded

WEIGHT = "weight"
"""The pattern of single weights."""
INT8 = "What is cut is measured as an int8 file; what is not, as it was trained. "
AS_FAST_TOO = "The smaller dense network that is as fast is measured as an int8 file, too. "


def render(
    summary: Summary,
    spec: Record,
    trials: Sequence[Record],
    stages: Sequence[Record],
    *,
    charts: Mapping[str, Chart],
    headline: Headline,
    table: str,
    spec_hash: str,
    command: str,
    failures: Mapping[str, str],
) -> str:
    """Return the report as one HTML text: the same text for the same records.

    `table` is the text of results.csv, which the page hands out.
    """
    library, script = get_plotlyjs(), "".join(map(_template, _SCRIPTS))
    first, *others = charts.items()
    frame = (
        _template("page.html")
        .replace("{{question}}", first[1].title)
        .replace("{{explorer}}", _figure(*first))
        .replace("{{sections}}", "\n".join(_section(*each) for each in others))
    )
    units, found = Units.of(summary), warnings(summary, spec, failures)
    task, found_shipped = str(spec["task"]["name"]), summary.shipped
    started = [str(record["started"]) for record in [*stages, *trials] if record.get("started")]
    parts = {
        "policy": _policy(library, script),
        "title": escape(f"{task}: pruning study"),
        "task": escape(task),
        "date": f'<span class="dot">·</span> {escape(max(started)[:10])}' if started else "",
        "seeds": counted(len(spec["seeds"]), "seed"),
        "style": _template("page.css"),
        "headline": escape(headline.sentence),
        "detail": escape(" ".join([*headline.details, *_compiled(summary, headline)])),
        "warnings": "".join(_banner(each) for each in found if each.severity != "note"),
        "notes": "".join(_banner(each) for each in found if each.severity == "note"),
        "verdict": "certified" if headline.row else "",
        "tiles": _tiles(summary, headline, units),
        "metric": escape(summary.metric),
        "confidence": percent(summary.confidence),
        "error": percent(1 - summary.confidence),
        "margin": escape(units.margin(summary.margin)),
        "better": "above" if summary.higher_is_better else "below",
        "direction": "Higher" if summary.higher_is_better else "Lower",
        "side": "below" if summary.higher_is_better else "above",
        "least": "lower" if summary.higher_is_better else "upper",
        "results": tables.results(summary),
        "comparisons": tables.comparisons(summary) if summary.comparisons else "",
        "shipped": tables.shipped(found_shipped, summary) if found_shipped else "",
        "excluded": tables.excluded(stages),
        "claim": escape(curve_name(*summary.primary)),
        "covers": escape(_covers(summary)),
        "against": _against(spec),
        "pattern": _pattern(spec, trained=compared(summary) is not None),
        "provenance": tables.provenance(spec_hash, trials, stages, command),
        "times": tables.times(trials, stages),
        "spec": escape(json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False)),
        "data": _embedded(_data(summary, spec, headline, charts) | {"table": table}),
        "library": library,
        "script": script,
    }
    # One pass, so that nothing put in is read for placeholders again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], frame)


def _figure(name: str, chart: Chart) -> str:
    kind = 'minis"' if chart.histograms else f'chart" role="img" aria-label="{chart.about}"'
    height = f' style="height:{chart.height}px"' if chart.height else ""
    return (
        f'<figure><div class="drawn"><div class="{kind} id="chart-{name}"{height}></div></div>'
        f"<figcaption>{chart.caption}</figcaption></figure>"
    )


def _section(name: str, chart: Chart) -> str:
    head = f'<div class="head"><h2>{chart.title}</h2>{chart.beside}</div>'
    return f"<section>\n{head}\n{_figure(name, chart)}\n{chart.below}\n</section>\n"


def _data(
    summary: Summary, spec: Record, headline: Headline, charts: Mapping[str, Chart]
) -> dict[str, Any]:
    """Return everything that is drawn or looked up in the page. Missing figures are None."""
    start = summary.suggested.get((headline.criterion, headline.recovery))
    keep = headline.row.keep if headline.row else start.keep if start else None
    levels = sorted(spec["levels"], reverse=True)
    return {
        "metric": asdict(Units.of(summary)),
        "levels": levels,
        "criteria": spec["criteria"],
        "recoveries": [{"name": each, "label": recovery_name(each)} for each in spec["recovery"]],
        "start": {
            "criterion": headline.criterion,
            "recovery": headline.recovery,
            "level": levels.index(keep) if keep in levels else 0,
        },
        "ship": {
            "criterion": summary.primary[0],  # what is shipped where nothing is said
            "recovery": summary.primary[1],
            "task": _reference(spec["task"]),
        },
        "rows": [{**asdict(row), "verdict": row.verdict} for row in summary.lines],
        "suggested": [[*pair, each.keep] for pair, each in summary.suggested.items()],
        "charts": [{"name": name, **asdict(chart)} for name, chart in charts.items()],
    }


def _reference(task: Record) -> str | None:
    """Return what names a task to a shell: None of a built-in one, "" where nothing does."""
    if is_built_in(task):
        return None
    return shlex.quote(str(task["source"])) if "source" in task else ""


def _pattern(spec: Record, *, trained: bool) -> str:
    """Return what is cut, where not single weights, and what is measured, where not as trained."""
    options = spec["options"]
    pattern = options.get("pattern", WEIGHT)  # studies of 0.1.0 have none
    shape = "" if pattern == WEIGHT else f"All cuts have the pattern {escape(str(pattern))}. "
    if not options.get("int8"):
        return shape
    return shape + INT8 + (AS_FAST_TOO if trained else "")


def _embedded(value: object) -> str:
    """Return JSON that is safe inside a script element: it holds no `<`, `>` or `&`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()) for each in scripts]
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _banner(notice: Notice) -> str:
    listed = "".join(f"<li>{escape(item)}</li>" for item in notice.items)
    items = (
        f" {escape('; '.join(notice.items))}"
        if len(notice.items) <= _FEW
        else f"<details><summary>All {len(notice.items):,}</summary><ul>{listed}</ul></details>"
    )
    return (
        f'<div class="banner {notice.severity}" role="note"><strong>{escape(notice.title)}.'
        f"</strong> {escape(notice.text)}{items}</div>"
    )


def _covers(summary: Summary) -> str:
    """Say for what the claim's intervals hold the differences."""
    found = dict.fromkeys(row.covers for row in summary.of(*summary.primary) if row.covers)
    return " or ".join(found) or "nothing so far"


def _against(spec: Mapping[str, Any]) -> str:
    """Say what levels are compared with, and what is beside them."""
    if LADDER not in spec["recovery"]:
        return (
            "Every level is compared with the <b>uncut</b> network that was trained on from the "
            "start for as long, at the same rates, on the same batches and with the same teacher."
        )
    return (
        "On every rung of the <b>ladder</b> each criterion’s network and the <b>uncut</b> one "
        "train for as long, at the same rates, on the same batches and with the same teacher, the "
        "start. A level is compared with the uncut network after its rung; levels above the first "
        "rung, and cuts that are not trained afterwards, with the start."
    )


def _compiled(summary: Summary, headline: Headline) -> list[str]:
    measured = shipped(summary, headline.row.keep) if headline.row else []
    return [*measured, *filter(None, [gain(summary)])]


def _tiles(summary: Summary, headline: Headline, units: Units) -> str:
    pair = headline.criterion, headline.recovery
    row, suggestion = headline.row, summary.suggested.get(pair)
    tiles = [("certified sparsity", "none", f"{counted(len(summary.of(*pair)), 'level')} measured")]
    if row:
        tiles = [("certified sparsity", percent(row.sparsity), f"cut by {row.criterion}")]
    elif suggestion:
        row = suggestion.row
        tiles += [("suggested sparsity", percent(row.sparsity), "by validation data only")]
    tested = {f"test {summary.metric}": row and row.test}
    tested |= {"uncut, trained as long": row.reference} if row else {}
    tested |= {"the start": summary.start.test} if summary.start else {}
    tiles += [(name, units.value(it.mean), units.limits(it)) for name, it in tested.items() if it]
    if row:
        start = summary.start
        whole = f"uncut {size(start.estimated_bytes)}" if start else ""
        tiles += [("weights kept", f"{row.kept:,}", f"of {row.prunable:,} prunable")]
        mine = compiled(summary, row.keep) if row.criterion == summary.primary[0] else None
        peers = [s for s in summary.shipped if s.criterion == UNCUT]
        if mine:
            uncut = min(peers, key=lambda peer: peer.bytes, default=None)
            note = f"uncut {size(uncut.bytes)} by {uncut.engine}" if uncut else ""
            tiles += [("size on disk", size(mine.bytes), note)]
        else:
            tiles += [("size, estimated", size(row.estimated_bytes), whole)]
    return "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in tiles
    )
