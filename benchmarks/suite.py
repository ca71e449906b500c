"""Many kinds of networks, dense and pruned, on secateur and ONNX Runtime, one sample at a time.

    python benchmarks/suite.py FOLDER [--nets crnn,unet] [--sparsities 0,0.8] [--threads 1]
        [--rounds 9] [--layers] [--report]

The networks are those of `suite_nets`: layer shapes of publications, random weights. Each at each
sparsity is one record, FOLDER/NET-SPARSITY.json; a record that exists is not measured again
(--again). What cannot be exported, compiled or run has a record with the error. From all records
in FOLDER come, printed, a table, goals and, from records with --layers, the steps that take
longest. Exit status 1: a goal was missed, or a network has no record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from engines import DIFFERENCE, Goal, Record, shown, speedup, tell
from secateur import machine
from secateur.bench import run
from secateur.files import write
from suite_nets import NETWORKS, onnx_file

PEER = "onnxruntime"
GOALS = {0.0: (0.7, 0.9), 0.8: (1.2, 3.0)}
"""Sparsity → times as fast as ONNX Runtime: of the slowest network, and the geometric mean."""
SLOWEST, STEPS = 5, 4
"""Networks whose steps are printed, and how many of each."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of records; made if need be")
    parser.add_argument("--nets", default=",".join(NETWORKS))
    parser.add_argument("--sparsities", default=",".join(f"{sparsity:g}" for sparsity in GOALS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", action="store_true", help="time every step of secateur's too")
    parser.add_argument("--networks", type=Path, help="folder of ONNX files  [default: in FOLDER]")
    parser.add_argument("--again", action="store_true", help="measure what has a record too")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    if unknown := set(given.nets.split(",")) - set(NETWORKS):
        parser.error(f"no network {', '.join(sorted(unknown))}; choose of {', '.join(NETWORKS)}")
    machine.cores_for(given.threads)  # or every record would say that there are too few
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.report:
        measure(given)
    records = [json.loads(path.read_text()) for path in sorted(given.folder.glob("*.json"))]
    order = list(NETWORKS)
    records.sort(key=lambda record: (record["sparsity"], order.index(record["net"])))
    for line in (*table(records), *steps(records)):
        print(line)
    return tell(goals(records))


def measure(given: argparse.Namespace) -> None:
    """Measure every network at every sparsity that is asked for, and write its record."""
    console = Console()
    for net in given.nets.split(","):
        for sparsity in map(float, given.sparsities.split(",")):
            path = given.folder / f"{net}-{sparsity:g}.json"
            if path.exists() and not given.again:
                continue
            record: Record = {"net": net, "kind": NETWORKS[net].kind, "sparsity": sparsity}
            try:
                model = onnx_file(net, sparsity, given.networks or given.folder / "networks")
                result = run(
                    model,
                    PEER,
                    batches=(1,),
                    threads=given.threads,
                    rounds=given.rounds,
                    layers=given.layers,
                )
            except Exception as error:  # one network's failure, of any kind, costs no others'
                record |= {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
                record |= {"machine": machine.describe(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
            else:
                record |= json.loads(result.json())
                if result.refusals:
                    record["error"] = result.refusals[0].why
            write(path, json.dumps(record, indent=1))
            console.print(told(record), markup=False, highlight=False, soft_wrap=True)


def told(record: Record) -> str:
    """Return a record in a line."""
    what = f"{record['net']}, {100 * record['sparsity']:g} %"
    if "error" in record:
        return f"{what}: {record['error']}"
    return f"{what}: {shown(ratio(record))} × {PEER}; compiled in {record['compile']:.1f} s"


def ratio(record: Record) -> Record | None:
    """Return how many times as fast as the peer secateur is; None where it was not measured."""
    return None if "error" in record else speedup(record, 1, (PEER,))


def apart(record: Record) -> float:
    """Return the largest difference of two engines' outputs, relative to the largest output."""
    return float(next(t["difference"] for t in record["timings"] if t["engine"] == PEER))


def table(records: Sequence[Record]) -> Iterator[str]:
    """Yield the lines of a table for each sparsity, errors, and what it was measured on."""
    measured = [record for record in records if "error" not in record]
    for sparsity in sorted({record["sparsity"] for record in measured}):
        heads = ["net", "kind", "secateur, ms", f"{PEER}, ms", f"× {PEER}", "differ by"]
        heads += ["compiled in, s"]
        yield f"\n## {100 * sparsity:g} % zeros\n"
        yield "| " + " | ".join(heads) + " |"
        yield "|---|---|" + "---:|" * (len(heads) - 2)
        for record in measured:
            if record["sparsity"] == sparsity:
                times = {t["engine"]: f"{1e3 * t['p50']:.3f}" for t in record["timings"]}
                cells = [record["net"], record["kind"], times["secateur"], times[PEER]]
                cells += [shown(ratio(record)), f"{apart(record):.1e}", f"{record['compile']:.1f}"]
                yield f"| {' | '.join(cells)} |"
    failed = [record for record in records if "error" in record]
    if failed:
        yield "\n## Not measured\n"
        yield from (f"- {told(record)}" for record in failed)
    if measured:
        last = max(measured, key=lambda record: record["date"])
        version = next(t["version"] for t in last["timings"] if t["engine"] == PEER)
        yield (
            f"\n{last['machine']['cpu']}, {last['machine']['os']}, {len(last['cores'])} threads; "
            f"{last['date']}; {PEER} {version}; batch 1, random weights and inputs; "
            f"n = {last['rounds']} interleaved rounds of {last['seconds']:g} s an engine; medians, "
            "in brackets 10–90 % of the rounds."
        )


def steps(records: Sequence[Record]) -> Iterator[str]:
    """Yield what takes longest in the networks that are slowest beside the peer."""
    profiled = [record for record in records if record.get("steps") and ratio(record)]
    if not profiled:
        return
    yield "\n## What takes the time of the slowest\n"
    profiled.sort(key=lambda record: ratio(record)["median"])
    for record in profiled[:SLOWEST]:
        total = sum(step["seconds"] for step in record["steps"])
        longest = sorted(record["steps"], key=lambda step: -step["seconds"])[:STEPS]
        parts = [
            f"{' '.join(filter(None, (s['op'], s['layer'], s['kernel'])))} "
            f"{1e3 * s['seconds']:.3f} ms ({s['seconds'] / total:.0%})"
            for s in longest
        ]
        yield f"- {told(record)}: {', '.join(parts)}"


def goals(records: Sequence[Record]) -> list[Goal]:
    """Return the goals of each sparsity; those of speed leave out what has an error."""
    found: list[Goal] = []
    for sparsity, (least, mean) in sorted(GOALS.items(), reverse=True):
        here = {record["net"]: record for record in records if record["sparsity"] == sparsity}
        all_there = set(here) >= set(NETWORKS)
        kind = f"{100 * sparsity:g} % zeros" if sparsity else "dense"
        wrong = [n for n, r in here.items() if "error" in r or not apart(r) <= DIFFERENCE]
        figure = f"; wrong: {', '.join(wrong)}" if wrong else f"; {len(here)} networks"
        what = f"{kind}: every network compiled, and its outputs within {DIFFERENCE:g} of {PEER}'s"
        found.append((what, False if wrong else True if all_there else None, figure))
        speeds = {n: each["median"] for n, r in here.items() if (each := ratio(r))}
        slowest = min(speeds, key=lambda net: speeds[net], default=None)
        average = float(np.exp(np.mean(np.log(list(speeds.values()))))) if speeds else 0.0
        for what, speed, wanted, note in (
            ("slowest network", speeds.get(slowest or "", 0.0), least, f", {slowest}"),
            ("geometric mean", average, mean, f", {len(speeds)} networks"),
        ):
            met = speed >= wanted if all_there and speeds else None
            figure = f"; {speed:.2f}{note}" if speeds else ""
            found.append((f"{kind}: {what} at least {wanted}× {PEER}", met, figure))
    return found


if __name__ == "__main__":
    sys.exit(main())
