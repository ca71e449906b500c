"""Try every architecture of the list in every way, and write the outcome as a table.

    python benchmarks/coverage.py [--only GLOB] [--output docs/coverage.md]

The table is the same for the same code, torch and transformers, but for the line with the date.
Exit status 1: something failed; the table says so.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from architectures import ARCHITECTURES, Architecture, Inputs
from refusals import REFUSALS, Refusal
from secateur import (
    Budget,
    GatePhase,
    Gates,
    Result,
    export_onnx,
    load,
    load_masks,
    prunable,
    prune,
    save,
)
from secateur.errors import CompileError
from secateur.model.parameters import unwrapped
from secateur.pruning.gates.learning import learning

KEEPS = (0.5, 0.1)
OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "coverage.md"


def fresh(architecture: Architecture, seed: int = 0) -> tuple[nn.Module, Inputs]:
    """Build an architecture with its seed's weights, and draw its inputs."""
    torch.manual_seed(seed)
    model = architecture.make()
    with torch.no_grad():  # what starts at zero would not tell whether it is kept
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model, architecture.inputs()


def cut(architecture: Architecture, keep: float) -> tuple[nn.Module, Result, Inputs]:
    """Return a model that was cut in place, whatever is wrapped around it still there."""
    model, inputs = fresh(architecture)
    pruned, result = prune(model, keep, criterion="magnitude", in_place=True)
    assert pruned is model
    return model, result, inputs


def weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return name → parameter, of the model inside wrappers."""
    inner = unwrapped(model)
    return {name: inner.get_parameter(name) for name in names}


def count(tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers are not zero, one by one."""
    return sum(int((tensor.detach() != 0).sum()) for tensor in tensors.values())


def loss(architecture: Architecture, model: nn.Module, inputs: Inputs) -> Tensor:
    """Run a model and make one number of all that it gives."""
    with architecture.running():
        made = flat(model(*inputs))
    return sum((tensor.float().pow(2).mean() for tensor in made), torch.zeros(()))


def flat(made: object) -> list[Tensor]:
    """Return the tensors of an output."""
    if isinstance(made, Tensor):
        return [made]
    values = made.values() if isinstance(made, Mapping) else made
    assert isinstance(values, Iterable), f"{type(made).__name__} is no output of a network"
    return [tensor for value in values for tensor in flat(value)]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two states have the same names, in order, dtypes, shapes and bits."""
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and bits(a).equal(bits(b))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


# The checks. Each raises AssertionError where something is wrong, and returns its cell.


def exact(architecture: Architecture, _: Path) -> str:
    """Exactly round(keep * N) weights are kept, counted in the tensors; the model given stays."""
    model, _inputs = fresh(architecture)
    before = copy.deepcopy(unwrapped(model).state_dict())
    plan = prunable(model)
    total = sum(tensor.numel() for tensor in weights(model, plan.names).values())
    assert total == count(weights(model, plan.names)), "a weight is zero before the cut"
    for keep in KEEPS:
        pruned, result = prune(model, keep, criterion="magnitude")
        assert count(weights(pruned, plan.names)) == round(keep * total) == result.masks.kept
        assert result.weights.before == total
    assert same(before, unwrapped(model).state_dict()), "the model given has changed"
    return "yes"


def held(architecture: Architecture, _: Path) -> str:
    """The zeros survive ten steps of AdamW with weight decay, and more training of a copy."""
    model, result, inputs = cut(architecture, KEEPS[1])
    start = copy.deepcopy(weights(model, result.masks))
    regrown = train(architecture, model, inputs, 10, result)
    assert regrown > 0, "no weight grew back between two holds: the check shows nothing"
    zeros(model, result)
    moved = weights(model, result.masks)
    assert any(not torch.equal(start[n], moved[n]) for n in start), "nothing was trained"
    twin = copy.deepcopy(model)
    assert same(twin.state_dict(), model.state_dict())
    train(architecture, twin, inputs, 1, result)
    zeros(twin, result)
    assert not same(twin.state_dict(), model.state_dict()), "the copy is not its own"
    return "yes"


def train(
    architecture: Architecture, model: nn.Module, inputs: Inputs, steps: int, result: Result
) -> int:
    """Train with held masks; return how many weights the steps moved off zero, all together."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    regrown = 0
    for _ in range(steps):
        optimizer.zero_grad()
        loss(architecture, model, inputs).backward()
        optimizer.step()
        regrown += count(weights(model, result.masks)) - result.masks.kept
        result.masks.hold(model)
    return regrown


def zeros(model: nn.Module, result: Result) -> None:
    for name, weight in weights(model, result.masks).items():
        assert not weight[~result.masks[name]].any(), f"{name} has grown back"


def keys(architecture: Architecture, _: Path) -> str:
    """The finished model has the original's keys, dtypes, shapes and classes."""
    model, _inputs = fresh(architecture)
    wanted = [(n, t.dtype, t.shape) for n, t in model.state_dict().items()]
    wanted_classes = classes(model)
    for keep in KEEPS:
        made, result, inputs = cut(architecture, keep)
        train(architecture, made, inputs, 1, result)
        assert [(n, t.dtype, t.shape) for n, t in made.state_dict().items()] == wanted
        assert classes(made) == wanted_classes
    return "yes"


def classes(model: nn.Module) -> list[tuple[str, str]]:
    """Return (path, class name) of every module; some kinds make a class for each of them."""
    return [(name, type(module).__qualname__) for name, module in model.named_modules()]


def files(architecture: Architecture, folder: Path) -> str:
    """A saved model comes back bit for bit in a model that had other weights."""
    model, result, inputs = cut(architecture, KEEPS[1])
    path = folder / "model.safetensors"
    save(model, path, masks=result.masks, budget=result.budget)
    other, _ = fresh(architecture, seed=1)
    assert not same(model.state_dict(), other.state_dict()), "both seeds gave the same model"
    assert load(path, other) is other
    assert same(model.state_dict(), other.state_dict())
    assert load_masks(path) == result.masks
    model.eval()
    other.eval()
    with torch.no_grad(), architecture.running():
        pairs = zip(flat(model(*inputs)), flat(other(*inputs)), strict=True)
        assert all(bits(one).equal(bits(two)) for one, two in pairs)
    return "yes"


def onnx(architecture: Architecture, folder: Path) -> str:
    """The ONNX file of the pruned model gives what torch gives; "refused": torch cannot export
    it, and the error is the known one."""
    model, inputs = fresh(architecture)
    pruned, _ = prune(model, KEEPS[0], criterion="magnitude")
    path = folder / "model.onnx"
    if architecture.refused:
        said = error_of(lambda: export_onnx(pruned, inputs, path))
        assert said is not None, "torch can export it now; take the reason off the list"
        assert isinstance(said, CompileError), repr(said)
        assert architecture.refused in str(said), str(said)
        assert not path.exists(), "a file was left behind"
        return "refused"
    with architecture.running():
        export_onnx(pruned, inputs, path)
    assert path.stat().st_size > 0
    return "equal"


def gates(architecture: Architecture, _: Path) -> str:
    """Gates attach, learn in one step through a cut, and come off again."""
    model, inputs = fresh(architecture)
    before = list(model.state_dict())
    names = prunable(model).names
    full = copy.deepcopy(weights(model, names))
    attached = Gates.attach(model, names)
    assert len(model.state_dict()) == len(before) + len(names)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with learning(attached, GatePhase(), drawn=lambda _: Budget(0.3)) as pruning:
        with pruning(optimizer) as masks:
            assert count(weights(model, names)) == masks.kept == round(0.3 * masks.total)
            loss(architecture, model, inputs).backward()
        assert same(full, weights(model, names)), "the weights are not back"
        optimizer.step()
    learned = [gate[~masks[name]] for name, gate in attached.values().items()]
    assert any(bool(change.any()) for change in learned), "no cut weight can come back"
    assert all(bool(change.isfinite().all()) for change in learned)
    assert Gates.of(copy.deepcopy(model)).names == names
    attached.remove()
    assert list(model.state_dict()) == before
    return "yes"


def nested(architecture: Architecture, _: Path) -> str:
    """What a smaller keep ratio keeps, a larger one keeps too."""
    model, _inputs = fresh(architecture)
    rows = [prune(model, keep, criterion="magnitude")[1].masks for keep in (0.8, *KEEPS, 0.05)]
    for larger, smaller in pairwise(rows):
        assert smaller.kept < larger.kept
        assert not any((smaller[name] & ~larger[name]).any() for name in smaller)
    return "yes"


CHECKS: dict[str, Callable[[Architecture, Path], str]] = {
    "exact K": exact,
    "masks held": held,
    "keys": keys,
    "save, load": files,
    "ONNX": onnx,
    "gates": gates,
    "nested": nested,
}


def missing(architecture: Architecture) -> str:
    """Return why an architecture cannot be tried here, or nothing."""
    try:
        if architecture.needs:
            import_module(architecture.needs)
    except ImportError as error:
        return f"the package {architecture.needs} is not installed: {error}"
    return ""


# The table.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="*", help="glob over names; writes no table")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, failures = [], 0
    for name, architecture in ARCHITECTURES.items():
        if not fnmatch.fnmatch(name, arguments.only):
            continue
        row = tried(name, architecture)
        rows.append((name, architecture, row))
        failures += sum("FAILED" in cell for cell in row)
        print(f"{name:24}" + "  ".join(f"{cell:8}" for cell in row), flush=True)
    answers = [(refusal.what, answer(refusal)) for refusal in REFUSALS.values()]
    failures += sum("NOT REFUSED" in told for _, told in answers)
    if arguments.only == "*":
        arguments.output.write_text(page(rows, answers), encoding="utf-8")
        print(f"written: {arguments.output}")
    return int(failures > 0)


def tried(name: str, architecture: Architecture) -> list[str]:
    """Return a row: parameters, prunable weights, and a cell for every check."""
    if reason := missing(architecture):
        print(f"{name}: {reason}", file=sys.stderr)
        return ["–", "–", *("not tried" for _ in CHECKS)]
    with architecture.around():
        model, _ = fresh(architecture)
        size = sum(parameter.numel() for parameter in model.parameters())
        row = [f"{size:,}", f"{prunable(model).total(model):,}"]
        for label, check in CHECKS.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    row.append(check(architecture, Path(folder)))
                except Exception as error:  # a table with a hole is better than none
                    print(f"{name}, {label}: {type(error).__name__}: {error}", file=sys.stderr)
                    row.append("**FAILED**")
    return row


def answer(refusal: Refusal) -> str:
    """Return the error that something is refused with."""
    said = error_of(refusal.attempt)
    if isinstance(said, refusal.error) and re.search(refusal.words, str(said), re.DOTALL):
        return str(said).replace("|", "\\|")
    return f"**NOT REFUSED BY NAME**: {'nothing' if said is None else type(said).__name__}"


def error_of(attempt: Callable[[], object]) -> Exception | None:
    """Return what a call raises, if it does."""
    try:
        attempt()
    except Exception as error:  # whatever it is: that is the question
        return error
    return None


def page(rows: list[tuple[str, Architecture, list[str]]], answers: list[tuple[str, str]]) -> str:
    """Return the document."""
    head = ["architecture", "what is special", "parameters", "prunable", *CHECKS]
    lines = [
        *("# Architectures", ""),
        f"secateur prunes the {len(rows)} architectures below; every cell of the table is a test",
        "(`tests/test_coverage.py`), and `python benchmarks/coverage.py` writes this page.",
        *("Weights are random, and small on purpose.", ""),
        f"Date: {datetime.now(UTC).date().isoformat()}; "
        f"torch {torch.__version__.partition('+')[0]}, transformers {installed('transformers')}, "
        f"onnxruntime {installed('onnxruntime')}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * 2 + "--:|" * 2 + "---|" * len(CHECKS),
    ]
    notes: list[str] = []
    for name, architecture, (size, prunable_weights, *cells) in rows:
        if architecture.why:
            note = f"`{architecture.refused}`: {architecture.why}"
            if note not in notes:
                notes.append(note)
            at = list(CHECKS).index("ONNX")
            cells[at] += f" ({notes.index(note) + 1})"
        lines.append(f"| {' | '.join([name, architecture.what, size, prunable_weights, *cells])} |")
    lines += ["", *(f"{number}. {note}." for number, note in enumerate(notes, 1)), ""]
    lines += ["What the columns mean:", ""]
    lines += [f"- **{label}**: {' '.join(str(c.__doc__).split())}" for label, c in CHECKS.items()]
    lines += ["", "## What is refused, and with which error", ""]
    lines += ["| what | the error |", "|---|---|"]
    lines += [f"| {what} | {told} |" for what, told in answers]
    return "\n".join(lines) + "\n"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
