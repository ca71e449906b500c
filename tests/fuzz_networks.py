"""Networks that were changed at random, through the reader, the passes and the compiler.

    python tests/fuzz_networks.py --mutants 100000              # through reader and passes
    python tests/fuzz_networks.py --mutants 300 --compile       # and planned, built, compared

A mutant is one of ONNX's own node tests, or of the networks here, with up to four changes: another
operator, attribute, input, constant, shape, element type, or operator set. Whatever is raised but a
SecateurError is a fault, and so is a crash, more than `MEMORY` on top of what there was, or more
than `SECONDS` of a processor's time. Mutant k of a seed is the same everywhere. A fault's model
goes to --found; the command then ends with 1.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnx_backend
import onnx_models as om
import test_emitted_c
from secateur.compiler import coverage, onnx_reader, passes, pipeline
from secateur.errors import SecateurError

MEMORY = 1 << 30  # bytes
SECONDS = 30  # of a processor, for one mutant; compiling takes more
PART = 500  # mutants of a process
FEW = 10  # of one that compiles them
NUMBERS = (0, 1, 2, 3, -1, -2, 7, 64, 1000, 2**20, 2**31 - 1, 2**31, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"))
LARGEST = 1 << 16  # bytes of a seed


@cache
def seeds() -> list[bytes]:
    """Return networks that the compiler takes, without large ones."""
    found = [test_emitted_c.images(), test_emitted_c.sequences(), om.linear()]
    found.append(om.if_model([om.node("Cast", "flag", "c", to=9)]))
    for case in onnx_backend.cases():
        proto = onnx.ModelProto()
        proto.CopyFrom(case.model)
        for value in list(proto.graph.input):
            if value.name in case.fixed:
                proto.graph.input.remove(value)
                array = numpy_helper.from_array(case.fixed[value.name], value.name)
                proto.graph.initializer.append(array)
        found.append(proto)
    contents = [proto.SerializeToString() for proto in found]
    return [content for content in contents if len(content) <= LARGEST]


@cache
def operators() -> list[str]:
    return sorted(coverage.compiled())


def mutant(seed: int, number: int) -> bytes:
    """Return a network with some changes, the same one each time."""
    draw = random.Random(f"{seed} {number}")
    proto = onnx.ModelProto()
    proto.ParseFromString(draw.choice(seeds()))
    for _ in range(draw.choice([1, 1, 1, 2, 2, 3, 4])):
        draw.choice(CHANGES)(proto.graph, draw)
    if draw.random() < 0.05:
        proto.opset_import[0].version = draw.randint(6, 29)
    return bytes(proto.SerializeToString())


def _values(graph: Any) -> list[str]:
    made = [name for node in graph.node for name in node.output]
    return [v.name for v in graph.input] + [t.name for t in graph.initializer] + made


def _operator(graph: Any, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    node.op_type = draw.choice(operators())
    if draw.random() < 0.5:
        del node.attribute[:]


def _attribute(graph: Any, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    if not node.attribute:
        return
    attribute = draw.choice(node.attribute)
    if draw.random() < 0.15:
        node.attribute.remove(attribute)
    elif attribute.type == attribute.INT:
        attribute.i = draw.choice(NUMBERS)
    elif attribute.type == attribute.FLOAT:
        attribute.f = draw.choice(FLOATS)
    elif attribute.type == attribute.INTS and attribute.ints:
        _list(attribute.ints, draw, NUMBERS)
    elif attribute.type == attribute.FLOATS and attribute.floats:
        _list(attribute.floats, draw, FLOATS)
    elif attribute.type == attribute.STRING:
        attribute.s = draw.choice([b"", b"SAME_UPPER", b"VALID", b"linear", b"\xff", b"x" * 99])
    elif attribute.type == attribute.TENSOR:
        _tensor(attribute.t, draw)
    elif attribute.type == attribute.GRAPH:
        draw.choice(CHANGES)(attribute.g, draw)


def _list(values: Any, draw: random.Random, among: Sequence[Any]) -> None:
    action = draw.random()
    if action < 0.2:
        values.append(draw.choice(among))
    elif action < 0.4:
        del values[draw.randrange(len(values))]
    else:
        values[draw.randrange(len(values))] = draw.choice(among)


def _more_attributes(graph: Any, draw: random.Random) -> None:
    """Give a node an attribute that its operator has, of any value of its kind."""
    node = draw.choice(graph.node)
    if not onnx.defs.has(node.op_type):
        return
    known = onnx.defs.get_schema(node.op_type).attributes
    if not known:
        return
    name = draw.choice(sorted(known))
    kind = known[name].type.name
    value = {
        "INT": draw.choice(NUMBERS),
        "FLOAT": draw.choice(FLOATS),
        "INTS": [draw.choice(NUMBERS[:7]) for _ in range(draw.randint(1, 5))],
        "STRING": draw.choice(["", "x", "max", "reflect", "SAME_LOWER"]),
    }.get(kind)
    if value is not None:
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _input(graph: Any, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    if node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice(["", *_values(graph)])


def _inputs(graph: Any, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    if draw.random() < 0.5 and node.input:
        del node.input[-1]
    else:
        node.input.append(draw.choice(["", *_values(graph)]))


def _turned(graph: Any, draw: random.Random) -> None:
    node = draw.choice(graph.node)
    names = list(node.input)
    draw.shuffle(names)
    node.input[:] = names


def _outputs(graph: Any, draw: random.Random) -> None:
    action = draw.random()
    if action < 0.4:
        graph.output.add(name=draw.choice(_values(graph)))
    elif action < 0.6 and len(graph.output) > 1:
        del graph.output[draw.randrange(len(graph.output))]
    else:
        node = draw.choice(graph.node)
        node.output.append(f"more {draw.random()}")


def _nodes(graph: Any, draw: random.Random) -> None:
    """Put a node behind a value, or take one out."""
    if draw.random() < 0.3 and len(graph.node) > 1:
        graph.node.remove(draw.choice(graph.node))
        return
    op = draw.choice(operators())
    count = draw.choice([1, 1, 2, 3])
    made = f"made {draw.random()}"
    names = [draw.choice(_values(graph)) for _ in range(count)]
    graph.node.append(helper.make_node(op, names, [made]))
    graph.output.add(name=made)


def _tensor(tensor: Any, draw: random.Random) -> None:
    action = draw.random()
    if action < 0.2 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
        return
    if action < 0.3:
        tensor.data_type = draw.choice(TensorProto.DataType.values())
        return
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # an earlier change
        return
    if action < 0.4:
        array = array.reshape(draw.choice([(-1,), (1, -1), (-1, 1, 1)]))
    elif array.size and array.dtype.kind in "iuf":
        among = [n for n in NUMBERS if array.dtype.kind == "f" or _fits(n, array.dtype)]
        chosen = draw.choice([*among, *(FLOATS if array.dtype.kind == "f" else ())])
        with np.errstate(all="ignore"):
            array.reshape(-1)[draw.randrange(array.size)] = chosen
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _fits(number: int, dtype: Any) -> bool:
    return bool(np.iinfo(dtype).min <= number <= np.iinfo(dtype).max)


def _constant(graph: Any, draw: random.Random) -> None:
    if graph.initializer:
        _tensor(draw.choice(graph.initializer), draw)


def _fixed(graph: Any, draw: random.Random) -> None:
    """Make an input a constant of random numbers."""
    if not graph.input:
        return
    value = draw.choice(graph.input)
    kind = value.type.tensor_type
    shape = [dim.dim_value or 1 for dim in kind.shape.dim]
    if kind.elem_type not in (1, 6, 7, 9, 11) or not 0 < np.prod(shape, dtype=float) < 1e5:
        return
    rng = np.random.default_rng(draw.randrange(2**31))
    array = rng.integers(-2, 5, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    graph.input.remove(value)
    graph.initializer.append(numpy_helper.from_array(array, value.name))


def _port(graph: Any, draw: random.Random) -> None:
    if not graph.input:
        return
    kind = draw.choice(graph.input).type.tensor_type
    action, dims = draw.random(), kind.shape.dim
    if action < 0.2:
        kind.elem_type = draw.choice(TensorProto.DataType.values())
    elif action < 0.6 and dims:
        dims[draw.randrange(len(dims))].dim_value = draw.choice(NUMBERS)
    elif action < 0.8 and dims:
        dims[draw.choice([0, 0, len(dims) - 1])].dim_param = draw.choice(["N", "M", "?"])
    elif dims and action < 0.9:
        del dims[draw.randrange(len(dims))]
    else:
        dims.add().dim_value = draw.choice(NUMBERS)


CHANGES: list[Callable[[Any, random.Random], None]] = [
    *(_operator, _attribute, _attribute, _more_attributes, _more_attributes, _input, _inputs),
    *(_turned, _outputs, _nodes, _nodes, _constant, _constant, _fixed, _port, _port),
]


def read(content: bytes) -> str:
    """Read a mutant and let the passes have it; return whether it was taken."""
    try:
        passes.apply(onnx_reader.read(content).graph)
    except SecateurError:
        return "refused"
    return "taken"


def compiled(content: bytes) -> str:
    """Compile a mutant, which compares it with the reference; return what became of it."""
    try:
        pipeline.compile_network(content)
    except SecateurError as error:
        text = str(error)
        return "DIFFERS" if "differs from the reference" in text else "refused"
    return "taken"


class _SlowError(BaseException):
    """A mutant takes more than `SECONDS`."""


def tried(content: bytes, attempt: Callable[[bytes], str], seconds: float = SECONDS) -> str:
    """Return what became of a mutant: "taken", "refused", or what fault it is."""

    def end(_number: int, _frame: Any) -> None:
        raise _SlowError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = attempt(content)
    except _SlowError:
        found = f"SLOW {_where(sys.exc_info()[2])}"
    except Exception as error:
        found = f"RAISED {type(error).__name__}: {error} {_where(error.__traceback__)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return f"MEMORY of {grown:,} bytes" if grown > MEMORY else found


def _where(trace: Any) -> str:
    frames = [f for f in traceback.extract_tb(trace) if "secateur" in f.filename]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


def _part(numbers: range, given: argparse.Namespace, report: Any) -> None:
    """Try mutants, in a process that ends with them."""
    attempt = compiled if given.compile else read
    for number in numbers:
        content = mutant(given.seed, number)
        report.write(f"{number} begun\n")
        report.flush()
        found = tried(content, attempt, given.seconds)
        if found[0].isupper():
            given.found.mkdir(parents=True, exist_ok=True)
            (given.found / f"{given.seed}-{number}.onnx").write_bytes(content)
        report.write(f"{number} {' '.join(found.split())}\n")
        report.flush()


def main() -> int:
    """Try mutants, each part in a process of its own; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile and compare them, too")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="that a mutant may take")
    parser.add_argument("--minutes", type=float, default=1e9, help="to stop after")
    parser.add_argument("--found", type=Path, default=Path("mutants"), help="folder for faults")
    given = parser.parse_args()
    seeds()  # once, for all processes
    counts: Counter[str] = Counter()
    begun, last = time.monotonic(), given.first + given.mutants
    at = given.first
    while at < last and time.monotonic() - begun < 60 * given.minutes:
        numbers = range(at, min(at + (FEW if given.compile else PART), last))
        done = _forked(numbers, given)
        for number, found in done:
            kind = found.partition(" ")[0]
            counts[kind] += 1
            if kind.isupper():
                print(f"{given.seed} {number}: {found}", flush=True)
        at = done[-1][0] + 1 if done else at + 1
        print(f"{sum(counts.values()):,}: {dict(counts)}", flush=True)
    faults = {kind: count for kind, count in counts.items() if kind.isupper()}
    print(f"faults: {faults}" if faults else "no fault")
    return 1 if faults else 0


def _forked(numbers: range, given: argparse.Namespace) -> list[tuple[int, str]]:
    """Return what became of mutants; a crash ends the list."""
    source, target = os.pipe()
    child = os.fork()
    if not child:
        os.close(source)
        with os.fdopen(target, "w") as report:
            _part(numbers, given, report)
        os._exit(0)
    os.close(target)
    with os.fdopen(source) as report:
        lines = [line.rstrip("\n").split(" ", 1) for line in report]
    _, status = os.waitpid(child, 0)
    done = [
        (int(number), found) for number, found in lines if found != "begun" and number.isdigit()
    ]
    if status:
        done.append((int(lines[-1][0]), f"CRASHED with status {status}"))
    return done


if __name__ == "__main__":
    sys.exit(main())
