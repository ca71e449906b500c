"""The issue's table: pruned networks on secateur and its peers, and whether the goals are met.

    python benchmarks/engines.py FOLDER [--nets resnet18,vgg16] [--sparsities 0.9] [--batches 1,64]
        [--against onnxruntime,onnxruntime-int8,openvino] [--env deepsparse=VENV] [--threads 2]

Each network at each sparsity is one record, FOLDER/NET-SPARSITY-VALUES.json; a record that exists
is not measured again (--again). From all records in FOLDER come engines.csv and, printed, tables
and goals. By default all peers take part: in float32, OpenVINO at the precision that it chooses,
and in int8, quantised on random inputs. 0 to 60 % (only resnet18) are there for the break-even with
the best dense engine in float32. Exit status 1: a goal was missed, or there is no record for it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from networks import NETWORKS, onnx_file
from secateur.bench import environments, run, view
from secateur.errors import CompileError
from secateur.files import write

SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BELOW = 0.7
"""Sparser is measured for every network, less sparse only for the break-even."""
BREAK_EVEN = "resnet18"

# At 90 %: over the best dense engine in float32 at batch 1 and 64, over DeepSparse at 1 and 64.
SPEED = {
    "resnet18": (5.0, 5.5, 4.0, 1.15),
    "vgg16": (5.0, 6.0, 4.0, 1.0),
    "resnet20": (3.0, 3.5, 2.0, 2.0),
    "resnet56": (3.0, 3.5, 2.0, 2.0),
    "vit": (2.5, 3.0, None, None),
    "mlp": (5.0, 5.0, None, None),
}
FILE = {"fp32": 0.16, "fp16": 0.09}
MEMORY, COMPILE, ROOFLINE, DIFFERENCE = 1 / 3, 30.0, 0.6, 1e-4

Record = dict[str, Any]
Goal = tuple[str, bool | None, str]
"""What; whether it was met, None where it was not measured; the figure."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of records; made if need be")
    parser.add_argument("--nets", default=",".join(NETWORKS))
    parser.add_argument("--sparsities", default=",".join(map(str, SPARSITIES)))
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--values", default="fp32,fp16", help="fp16: only at 90 %%")
    parser.add_argument("--against", default=",".join(environments.PEERS))
    parser.add_argument("--env", action="append", default=[], help="PEER=FOLDER")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", type=Path, help="folder of ONNX files  [default: in FOLDER]")
    parser.add_argument("--again", action="store_true", help="measure what has a record too")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.report:
        measure(given)
    records = [json.loads(path.read_text()) for path in sorted(given.folder.glob("*.json"))]
    write(given.folder / "engines.csv", table(records))
    for line in markdown(records):
        print(line)
    return tell(goals(records))


def tell(found: Sequence[Goal]) -> int:
    """Print goals; return the exit status, 1 where one was missed or not measured."""
    print("\n## Goals\n")
    for what, met, figure in found:
        print(f"- {'NOT MEASURED' if met is None else 'met' if met else 'MISSED'}: {what}{figure}")
    return int(not all(met for _, met, _ in found))


def measure(given: argparse.Namespace) -> None:
    """Measure every network at every sparsity that is asked for, and write its record."""
    console = Console()
    against = available(given.against, tuple(given.env), console)
    for net in given.nets.split(","):
        for sparsity in map(float, given.sparsities.split(",")):
            for values in given.values.split(","):
                path = given.folder / f"{net}-{sparsity:g}-{values}.json"
                unwanted = sparsity < BELOW and net != BREAK_EVEN
                unwanted |= values != "fp32" and sparsity != 0.9
                if unwanted or (path.exists() and not given.again):
                    continue
                model = onnx_file(net, sparsity, given.networks or given.folder / "networks")
                try:
                    result = run(
                        model,
                        against,
                        batches=tuple(map(int, given.batches.split(","))),
                        threads=given.threads,
                        rounds=given.rounds,
                        layers=True,
                        env=given.env,
                        values=values,
                    )
                except CompileError as error:
                    console.print(f"{model.name}: {error}", style="red", markup=False)
                    continue
                console.print(view(result))
                record = {"net": net, "sparsity": sparsity, "values": values}
                write(path, json.dumps(record | json.loads(result.json()), indent=1))


def available(against: str, env: tuple[str, ...], console: Console) -> str:
    """Return the peers that can be installed here; say why the others cannot."""
    names, places = [], environments.given(env)
    for peer in environments.peers(against):
        try:
            environments.python(peer, places)
            names.append(peer.name)
        except CompileError as error:
            console.print(str(error), style="red", markup=False)
    return ",".join(names)


def table(records: Sequence[Record]) -> str:
    """Return all figures as CSV, one row for each engine at each batch size."""
    text = StringIO()
    columns = ["net", "sparsity", "values", "batch", "engine", "version", "precision", "p50_ms"]
    columns += [
        "p95_ms",
        "per_second",
        "memory_bytes",
        "file_bytes",
        "difference",
        "speedup",
        "low",
        "high",
    ]
    columns += ["rounds", "runs", "threads", "cpu", "date"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        for timing in record["timings"]:
            ratio = speedup(record, timing["batch"], (timing["engine"],)) or {}
            writer.writerow(
                {
                    **{key: record[key] for key in ("net", "sparsity", "values", "date")},
                    **{key: timing[key] for key in ("batch", "engine", "version", "difference")},
                    "precision": precision(timing),
                    "p50_ms": f"{1e3 * timing['p50']:.4f}",
                    "p95_ms": f"{1e3 * timing['p95']:.4f}",
                    "per_second": f"{timing['throughput']:.1f}",
                    "memory_bytes": timing["memory"],
                    "file_bytes": timing["file"],
                    "speedup": _rounded(ratio.get("median")),
                    "low": _rounded(ratio.get("low")),
                    "high": _rounded(ratio.get("high")),
                    "rounds": len(timing["rounds"]),
                    "runs": timing["runs"],
                    "threads": len(record["cores"]),
                    "cpu": record["machine"]["cpu"],
                }
            )
    return text.getvalue()


def _rounded(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"


def precision(timing: Record) -> str:
    """Return what an engine computed in; records of 0.1.0 do not say, and were all float32."""
    return str(timing.get("precision", "f32"))


def dense(record: Record, *, any_precision: bool = False) -> list[str]:
    """Return the peers of a record that do not skip zeros, in float32 or at any precision."""
    return [
        timing["engine"]
        for timing in record["timings"]
        if (peer := environments.PEERS.get(timing["engine"])) and not peer.skips_zeros
        if any_precision or precision(timing) == "f32"
    ]


def speedup(record: Record, batch: int, over: Sequence[str]) -> Record | None:
    """Return secateur's speed-up over the best of some engines, or None."""
    found = [s for s in record["speedups"] if s["batch"] == batch and s["over"] in over]
    return min(found, key=lambda s: s["median"], default=None)


def markdown(records: Sequence[Record]) -> Iterator[str]:
    """Yield the lines of a table for each batch size, and of what it was measured on."""
    plain = [record for record in records if record["values"] == "fp32"]
    if not plain:
        return
    engines = list(dict.fromkeys(t["engine"] for record in plain for t in record["timings"]))
    versions = sorted(
        {f"{t['engine']} {t['version']} ({precision(t)})" for r in plain for t in r["timings"]}
    )
    for batch in sorted({timing["batch"] for record in plain for timing in record["timings"]}):
        what = "latency, ms (p50)" if batch == 1 else "samples a second"
        heads = ["net", "sparsity", *engines, "× best dense engine in f32"]
        heads += ["× best dense engine at any precision", "× deepsparse"]
        yield f"\n## Batch {batch}: {what}\n"
        yield "| " + " | ".join(heads) + " |"
        yield "|---|" + "---:|" * (len(heads) - 1)
        for record in sorted(plain, key=lambda r: (list(NETWORKS).index(r["net"]), r["sparsity"])):
            row = {t["engine"]: t for t in record["timings"] if t["batch"] == batch}
            cells = [_figure(row[e], batch) if e in row else "-" for e in engines]
            overs = (dense(record), dense(record, any_precision=True), ["deepsparse"])
            cells += [shown(speedup(record, batch, over)) for over in overs]
            yield f"| {record['net']} | {100 * record['sparsity']:g} % | {' | '.join(cells)} |"
    last = max(plain, key=lambda record: record["date"])
    yield (
        f"\n{last['machine']['cpu']}, {last['machine']['os']}, {len(last['cores'])} threads on "
        f"cores {last['cores']}; {last['date']}; {', '.join(versions)}; random weights and "
        f"inputs; n = {last['rounds']} interleaved rounds of {last['seconds']:g} s an engine; "
        "in brackets 10–90 % of the rounds."
    )


def _figure(timing: Record, batch: int) -> str:
    return f"{1e3 * timing['p50']:.3f}" if batch == 1 else f"{timing['throughput']:,.0f}"


def shown(ratio: Record | None) -> str:
    """Return a speed-up in words: its median and what 80 % of the rounds lie between."""
    if ratio is None:
        return "-"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def goals(records: Sequence[Record]) -> list[Goal]:
    """Return every goal of the issue that these records can decide."""
    at = {(r["net"], r["sparsity"], r["values"]): r for r in records}
    found: list[Goal] = []
    for net, (dense1, dense64, sparse1, sparse64) in SPEED.items():
        record = at.get((net, 0.9, "fp32"))
        peers = dense(record) if record else []
        for batch, name, over, least in (
            (1, "the best dense engine in f32", peers, dense1),
            (64, "the best dense engine in f32", peers, dense64),
            (1, "DeepSparse", ["deepsparse"], sparse1),
            (64, "DeepSparse", ["deepsparse"], sparse64),
        ):
            ratio = speedup(record, batch, over) if record else None
            what = f"{net}, 90 %, batch {batch}: {least}× {name}"
            if least:
                met = None if ratio is None else ratio["median"] >= least
                found.append((what, met, f"; {shown(ratio)}"))
    found += [_break_even(at, batch) for batch in (1, 64)]
    for net in NETWORKS:
        for values, most in FILE.items():
            what = f"{net}, 90 %, {values}: file at most {most} of the dense ONNX file"
            found.append(_of_peer(at.get((net, 0.9, values)), what, "file", most))
        record = at.get((net, 0.9, "fp32"))
        apart = [
            t["difference"] for t in (record or {}).get("timings", ()) if precision(t) == "f32"
        ]
        worst = max(apart, default=None)
        what = f"{net}, 90 %: outputs within {DIFFERENCE:g} of every engine's in f32"
        met = None if worst is None else worst <= DIFFERENCE
        found.append((what, met, "" if worst is None else f"; {worst:.1e}"))
    record = at.get(("resnet18", 0.9, "fp32"))
    what = "resnet18, 90 %: peak memory at most a third of ONNX Runtime's"
    found.append(_of_peer(record, what, "memory", MEMORY))
    seconds = record["compile"] if record else None
    met = None if seconds is None else seconds < COMPILE
    figure = "" if seconds is None else f"; {seconds:.1f} s"
    found.append((f"resnet18, 90 %: compiled in under {COMPILE:g} s", met, figure))
    return found + _roofline(record)


def _break_even(at: dict[tuple[str, float, str], Record], batch: int) -> Goal:
    """Return whether every sparsity from 50 % on beats the best dense engine, and from where on."""
    measured = {
        sparsity: ratio["median"]
        for (net, sparsity, values), record in at.items()
        if (net, values) == (BREAK_EVEN, "fp32")
        and (ratio := speedup(record, batch, dense(record)))
    }
    what = f"{BREAK_EVEN}, batch {batch}: break-even with the best dense engine in f32 at 50 % or "
    what += "lower"
    if 0.5 not in measured:
        return what, None, ""
    losing = [sparsity for sparsity, ratio in measured.items() if ratio < 1]
    faster = [sparsity for sparsity in measured if sparsity > max(losing, default=-1.0)]
    figure = f"; faster from {100 * min(faster):g} % on" if faster else "; never faster"
    return what, max(losing, default=-1.0) < 0.5, figure


def _of_peer(record: Record | None, what: str, key: str, most: float) -> Goal:
    """Compare a figure of secateur's with ONNX Runtime's, at the batch size where it is worst."""
    pairs: dict[int, dict[str, float]] = {}
    for timing in record["timings"] if record else ():
        pairs.setdefault(timing["batch"], {})[timing["engine"]] = timing[key]
    parts = [p["secateur"] / p["onnxruntime"] for p in pairs.values() if "onnxruntime" in p]
    if not parts:
        return what, None, ""
    return what, max(parts) <= most, f"; {max(parts):.3f}"


def _roofline(record: Record | None) -> list[Goal]:
    """Return, for each batch size, the convolution that is farthest from the roofline."""
    found: list[Goal] = []
    for batch in (1, 64):
        what = f"resnet18, 90 %, batch {batch}: every sparse convolution at {ROOFLINE:.0%} of the "
        what += "non-zeros' roofline"
        steps = [s for s in (record or {}).get("steps", ()) if s["batch"] == batch and s["macs"]]
        sparse = [step for step in steps if step["kernel"] == "sparse"]
        if not record or not record["roofline"] or not sparse:
            found.append((what, None, ""))
            continue
        worst = min(sparse, key=lambda step: step["speed"])
        part = worst["speed"] / record["roofline"]["registers"]
        found.append((what, part >= ROOFLINE, f"; the worst, {worst['layer']}: {part:.0%}"))
    return found


if __name__ == "__main__":
    sys.exit(main())
