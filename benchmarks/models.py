"""Take models of the libraries that people use through everything; write the outcome as a table.

    python benchmarks/models.py FOLDER [--only GLOB] [--again] [--report]
        [--output docs/models.md]

Nothing is downloaded: configurations are small, weights random. Every model runs in a process of
its own, which has SECONDS; its record is FOLDER/NAME.json, and one that exists is not made again
but for --again. Models of packages that are not installed are left out, and counted; timm wants
torchvision beside it (`pip install --no-deps timm torchvision`), built for any torch. Exit status
1: something failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from model_ways import FIXED, WAYS, made
from model_zoo import MODELS
from secateur import files
from secateur.compiler import toolchain
from secateur.errors import SecateurError

SECONDS = 600
REFUSED: dict[tuple[str, str], str] = {
    **dict.fromkeys(  # a Python loop over the experts that tokens were sent to
        (("transformers: switch", "ONNX"), ("transformers: switch", "compile")),
        "cannot be run to compare",
    ),
    **dict.fromkeys(  # draws patches at random
        (("transformers: vilt", "ONNX"), ("transformers: vilt", "compile")), "multinomial"
    ),
}
"""(model, way) → part of the reason, where one is refused on purpose."""
OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "models.md"
LIBRARIES = ("torch", "transformers", "timm", "onnxruntime")

STAYS = "the model has no channels that can be cut"
"""How the answer begins where every channel of a model is needed, by its design."""

Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of records; made if need be")
    parser.add_argument("--only", default="*", help="glob over names; writes no table")
    parser.add_argument("--again", action="store_true", help="try what has a record too")
    parser.add_argument("--report", action="store_true", help="try nothing; show the records")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    toolchain.OPTIMIZE = "-O1"  # answers are compared here, not times
    torch.set_num_threads(1)  # before forks: threads do not come along
    records = {}
    for name in fnmatch.filter(MODELS, given.only):
        path = path_of(given.folder, name)
        if not path.exists() and (given.report or missing(name)):
            continue
        if not given.report and (given.again or not path.exists()):
            in_a_process(name, given.folder)
        records[name] = json.loads(path.read_text(encoding="utf-8"))
        print(f"{name:40}" + "  ".join(cell(records[name], way) for way in WAYS), flush=True)
    if given.only == "*":
        given.output.write_text(page(records), encoding="utf-8")
        print(f"written: {given.output}")
    wrong = [name for name, record in records.items() if failures(record)]
    whole = sum(works(record) for record in records.values())
    print(f"{len(records)} tried, {whole} work in every way, {len(wrong)} fail: {', '.join(wrong)}")
    return int(bool(wrong))


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.json"


def missing(name: str) -> bool:
    """Return whether the package that a model is of is not installed."""
    family = MODELS[name].family
    return family in LIBRARIES and find_spec(family) is None


def in_a_process(name: str, folder: Path) -> None:
    """Try one model; a process that dies or takes too long is a record too.

    The process is a fork, which need not import torch again.
    """
    path = path_of(folder, name)
    path.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=recorded, args=(name, path))
    process.start()
    process.join(SECONDS)
    told = f"the process ended with {process.exitcode}"
    if process.is_alive():
        process.kill()
        told = f"nothing within {SECONDS} s"
    if not path.exists():
        path.write_text(json.dumps({"parameters": 0, "ways": {"weights": ["failed", told]}}))


def recorded(name: str, path: Path) -> None:
    """Try one model, and write its record whole or not at all."""
    files.write(path, json.dumps(tried(name)).encode())


def tried(name: str) -> Record:
    """Take one model through every way."""
    warnings.simplefilter("ignore")  # of the libraries, about their own ways
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = made(MODELS[name], Path(folder))
        ways = {}
        for label, way in WAYS.items():
            try:
                ways[label] = ["yes", way(model)]
            except SecateurError as error:
                ways[label] = ["refused", str(error)]
            except Exception as error:  # that is the question
                ways[label] = ["failed", f"{type(error).__name__}: {error}"]
    size = sum(parameter.numel() for parameter in model.module.parameters())
    return {
        "parameters": size,
        "ways": ways,
        "seconds": round(time.perf_counter() - begun, 1),
        "versions": {package: found for package in LIBRARIES if (found := installed(package))},
    }


def installed(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""


def cell(record: Record, way: str) -> str:
    """Return what a table says of one way; "–": it was not reached."""
    outcome, told = record["ways"].get(way, ["–", ""])
    if told == FIXED:
        return FIXED
    if outcome == "refused" and told.startswith(STAYS):
        return "stays"
    return "FAILED" if outcome == "failed" else str(outcome)


def failures(record: Record) -> list[str]:
    return [way for way, (outcome, _) in record["ways"].items() if outcome == "failed"]


def works(record: Record) -> bool:
    return all(cell(record, way) in ("yes", "stays", FIXED) for way in WAYS)


# The page.


def page(records: dict[str, Record]) -> str:
    """Return the document."""
    whole = sum(works(record) for record in records.values())
    failed = sum(bool(failures(record)) for record in records.values())
    share = whole / len(records)
    whole_channels = sum(cell(record, "channels") == "stays" for record in records.values())
    fixed = sum(FIXED in (cell(record, way) for way in WAYS) for record in records.values())
    lines = [
        *("# Models of other libraries", ""),
        f"{len(records)} models were tried, each in seven ways. {whole} ({share:.0%}) work in",
        f"every way, {len(records) - whole - failed} are refused in some way, with a reason, and",
        f"{failed} fail. {whole_channels} of those that work have no channels that can be cut, and",
        f"{fixed} are compiled for a batch that is fixed, because samples meet in them.",
        "",
        "Configurations are small and weights random, and nothing is downloaded. The list is in",
        "`benchmarks/model_zoo`; `python benchmarks/models.py FOLDER` tries it and writes this",
        "page, `make test` tries eight of it and `make test-long` all whose packages are there.",
        f"Of the list's {len(MODELS)}, {len(MODELS) - len(records)} were not tried for this page.",
        "",
        f"Date: {datetime.now(UTC).date().isoformat()}; {versions(records)}; n = 1 seed.",
        "",
        "| model | parameters | " + " | ".join(WAYS) + " |",
        "|---|--:|" + "---|" * len(WAYS),
    ]
    for name, record in records.items():
        cells = [bold(cell(record, way)) for way in WAYS]
        groups = record["ways"].get("channels", ["", ""])
        if groups[0] == "yes":
            cells[list(WAYS).index("channels")] = str(groups[1]).partition(";")[0]
        lines.append(f"| {name} | {record['parameters']:,} | {' | '.join(cells)} |")
    lines += ["", "What the columns mean:", ""]
    lines += [f"- **{label}**: {' '.join(str(w.__doc__).split())}" for label, w in WAYS.items()]
    return "\n".join([*lines, *reasons(records)]) + "\n"


def reasons(records: dict[str, Record]) -> list[str]:
    """Return tables of what is refused, of groups of channels that are, and of what fails."""
    parts: dict[str, list[str]] = {"refused": [], "groups": [], "stays": [], "failed": []}
    for name, record in records.items():
        for way, (outcome, told) in record["ways"].items():
            if cell(record, way) == "stays":
                reasons = told.removeprefix(STAYS).strip(" ()")
                parts["stays"].append(f"| {name} | {way} | {plain(reasons)} |")
            elif outcome != "yes":
                parts[outcome].append(f"| {name} | {way} | {plain(told)} |")
            elif way == "channels" and "; " in told:
                parts["groups"].append(f"| {name} | {way} | {plain(told.partition('; ')[2])} |")
    titles = {
        "refused": "What is refused, and with which error",
        "groups": "Groups of channels that are refused, and keep their zeros",
        "stays": "Models of which every channel stays, and why",
        "failed": "What fails",
    }
    lines = []
    for part, rows in parts.items():
        if rows:
            lines += ["", f"## {titles[part]}", "", "| model | way | reason |", "|---|---|---|"]
            lines += rows
    return lines


def versions(records: dict[str, Record]) -> str:
    found: dict[str, str] = {}
    for record in records.values():
        found |= record.get("versions", {})
    families = {MODELS[name].family for name in records if name in MODELS}
    return ", ".join(
        f"{package} {number}"
        for package, number in found.items()
        if package in families or package in ("torch", "onnxruntime")
    )


def bold(text: str) -> str:
    return f"**{text}**" if text == "FAILED" else text


def plain(text: str) -> str:
    """Return a text for a cell of a table: one line, nothing that Markdown reads."""
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return line if len(line) <= 400 else line[:400] + " …"


if __name__ == "__main__":
    sys.exit(main())
