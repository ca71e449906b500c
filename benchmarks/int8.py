"""Networks in int8: secateur's own float32 and int8 beside its peers' float32, bf16 and int8.

    python benchmarks/int8.py FOLDER [--nets resnet18,vgg16] [--batches 1,64] [--threads 2]
        [--sparsity 0.9] [--pattern dot4] [--no-matrix]
        [--against onnxruntime,onnxruntime-int8,openvino,openvino-int8] [--env openvino=VENV]

Weights and inputs are random: only speed and bytes are compared. Secateur's int8 network is what
`secateur.quantize` makes, on the same number of random inputs as its peers' tools get. With
--sparsity, weights are cut in fours (dot4) first, or as --pattern says, from which the peers gain
nothing: 16x4 is for linear layers at batch 1. With --no-matrix, no engine may use matrix
instructions (no_matrix.py says how). Each network is one record, FOLDER/int8-NET-SPARSITY.json;
one that exists is not measured again (--again). Printed are a table for each batch size, and the
goals. Exit status 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from engines import Goal, Record, available, precision, shown, tell
from networks import NETWORKS, onnx_file
from no_matrix import refuse
from secateur import quantize
from secateur.bench import inputs, run, view
from secateur.files import write

NETS = ("resnet18", "vgg16", "resnet56", "vit", "bert")
PEERS = "onnxruntime,onnxruntime-int8,openvino-f32,openvino,openvino-int8"
CALIBRATION = 64
"""Random inputs that are quantised on."""

OWN, PEER, BYTES, CUT = 3.0, 0.7, 0.26, 3.0
"""Goals: over our float32; over the best int8 of a peer; artifact over the float32 ONNX file; and
over the best int8 of a peer from a sparsity of 0.9 on."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of records; made if need be")
    parser.add_argument("--nets", default=",".join(NETS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--sparsity", type=float, default=0.0, help="of blocks")
    parser.add_argument("--pattern", default="dot4", help="of blocks: dot4, or 16x4")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--against", default=PEERS)
    parser.add_argument("--env", action="append", default=[], help="PEER=FOLDER")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--again", action="store_true", help="measure what has a record too")
    parser.add_argument(
        "--no-matrix",
        action="store_true",
        help="let Linux refuse AMX to every engine, so that all use AVX-512 VNNI",
    )
    given = parser.parse_args(arguments)
    if given.no_matrix:
        refuse()
    given.folder.mkdir(parents=True, exist_ok=True)
    records = [_record(given, net) for net in given.nets.split(",")]
    for line in markdown(records):
        print(line)
    return tell(list(goals(records)))


def _record(given: argparse.Namespace, net: str) -> Record:
    dense_or_dot4 = not given.sparsity or given.pattern == "dot4"
    cut = f"{given.sparsity:g}{'' if dense_or_dot4 else f'-{given.pattern}'}"
    name = f"int8-{net}-{cut}"
    path = given.folder / f"{name}{'-no-matrix' if given.no_matrix else ''}.json"
    if path.exists() and not given.again:
        return dict(json.loads(path.read_text()))
    console = Console()
    model = onnx_file(net, given.sparsity, given.folder / "networks", pattern=given.pattern)
    drawn = inputs.draw(inputs.of_onnx(model, {}), CALIBRATION)
    made = quantize(model, {name: np.asarray(array) for name, array in drawn.items()})
    quantised = given.folder / "networks" / f"{net}-{cut}-int8.onnx"
    made.save(quantised)
    result = run(
        {"secateur": model, "secateur-int8": quantised},
        available(given.against, tuple(given.env), console),
        onnx=model,
        batches=tuple(map(int, given.batches.split(","))),
        threads=given.threads,
        rounds=given.rounds,
        env=given.env,
        agree=False,
    )
    console.print(view(result))
    record = {"net": net, "sparsity": given.sparsity, "onnx_bytes": model.stat().st_size}
    record |= {"matrix": not given.no_matrix, "pattern": given.pattern}
    record |= json.loads(result.json())
    write(path, json.dumps(record, indent=1))
    return record


def _times(record: Record, batch: int) -> dict[str, Record]:
    return {t["engine"]: t for t in record["timings"] if t["batch"] == batch}


def _ratio(record: Record, batch: int, engine: str, over: Sequence[str]) -> Record | None:
    """Return how many times as fast an engine is as the fastest of others, round by round."""
    times = _times(record, batch)
    others = [times[name]["rounds"] for name in over if name in times]
    if engine not in times or not others:
        return None
    ratios = np.min(others, axis=0) / np.array(times[engine]["rounds"])
    low, median, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    return {"low": low, "median": median, "high": high}


def _int8(record: Record, batch: int) -> list[str]:
    """Return the peers that computed in int8."""
    return [
        name
        for name, timing in _times(record, batch).items()
        if not name.startswith("secateur") and "int8" in precision(timing)
    ]


def markdown(records: Sequence[Record]) -> Iterator[str]:
    """Yield the lines of a table for each batch size, and of what it was measured on."""
    engines = list(dict.fromkeys(t["engine"] for r in records for t in r["timings"]))
    for batch in sorted({t["batch"] for r in records for t in r["timings"]}):
        heads = ["net, zeros", *engines, "int8 × own f32", "× best int8 of a peer"]
        yield f"\n## Batch {batch}: milliseconds (median)\n"
        yield "| " + " | ".join(heads) + " |"
        yield "|---|" + "---:|" * (len(heads) - 1)
        for record in records:
            times = _times(record, batch)
            cells = [f"{1e3 * times[e]['p50']:.3f}" if e in times else "-" for e in engines]
            for over in (["secateur"], _int8(record, batch)):
                cells.append(shown(_ratio(record, batch, "secateur-int8", over)))
            what = f"{record['net']}, {100 * record['sparsity']:g} %"
            if record["sparsity"] and record.get("pattern", "dot4") != "dot4":
                what += f" in {record['pattern']}"
            if not record.get("matrix", True):
                what += ", no AMX"
            yield f"| {what} | {' | '.join(cells)} |"
    last = max(records, key=lambda record: record["date"])
    versions = sorted({f"{t['engine']} {t['version']} ({precision(t)})" for t in last["timings"]})
    yield (
        f"\n{last['machine']['cpu']}, {len(last['cores'])} threads; {last['date']}; "
        f"{', '.join(versions)}; random weights and inputs; n = {last['rounds']} interleaved "
        f"rounds of {last['seconds']:g} s an engine; in brackets 10–90 % of the rounds."
    )


def goals(records: Sequence[Record]) -> Iterator[Goal]:
    """Yield every goal that these records can decide."""
    for record in records:
        net = record["net"]
        for batch in sorted({t["batch"] for t in record["timings"]}):
            peers = _int8(record, batch)
            wanted = [(["secateur"], "its own float32", OWN)] if not record["sparsity"] else []
            if record["sparsity"] in (0.0, 0.9):
                least = CUT if record["sparsity"] else PEER
                wanted.append((peers, "the best int8 of a peer", least))
            for over, name, least in wanted:
                ratio = _ratio(record, batch, "secateur-int8", over)
                met = None if ratio is None else ratio["median"] >= least
                yield f"{net}, batch {batch}: {least}× {name}", met, f"; {shown(ratio)}"
        if net == "resnet18" and not record["sparsity"]:
            size = next(t["file"] for t in record["timings"] if t["engine"] == "secateur-int8")
            share = size / record["onnx_bytes"]
            what = f"{net}: file at most {BYTES} of the float32 ONNX"
            yield what, share <= BYTES, f"; {share:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
