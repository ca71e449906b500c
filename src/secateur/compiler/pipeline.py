"""The whole way from a network to an engine, readable top to bottom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from secateur.arguments import BOOL, PATH, SOURCE, TEXT, Wanted, checked
from secateur.compiler import (
    artifact,
    bundle,
    choice,
    destination,
    diagnosis,
    emit,
    indices,
    nan_weights,
    own_inputs,
    samples,
    toolchain,
    verification,
)
from secateur.compiler.compiled import Compiled
from secateur.compiler.fixed_inputs import VALUES as FIXED
from secateur.compiler.fixed_inputs import Value
from secateur.compiler.graph import EMPTY, Graph
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network, prepare
from secateur.compiler.own_inputs import Given
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target
from secateur.errors import CompileError, UsageError
from secateur.version import VERSION

VALUES = ("fp32", "fp16", "bf16")
"""How the values of weights may be stored."""

TUNED = (1.0, 0.5, 1.5, 0.0)
"""Sizes of sparse tiles that are tried, of the usual one; 0: dense."""


_SHAPE = Wanted(
    lambda v: all(
        isinstance(shape, (tuple, list)) and all(isinstance(n, Integral) for n in shape)
        for shape in v.values()
    ),
    "input → shape, a tuple of whole numbers",
)
_OPTIONS = {
    "source": SOURCE,
    "target": TEXT,
    "input_shapes": _SHAPE,
    "fixed": FIXED,
    "name": TEXT,
    "tune": BOOL,
    "verify_with": own_inputs.GIVEN,
}


@checked(**_OPTIONS)
def compile_network(
    source: Path | bytes,
    *,
    target: str = "native",
    values: str = "fp32",
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, Value] = EMPTY,
    name: str | None = None,
    tune: bool = False,
    verify_with: Given | None = None,
) -> Compiled:
    """Compile an ONNX model and compare the engine with the reference.

    Args:
        source: an ONNX file or its content.
        target: "native", or a name in `targets.CROSS`.
        values: how weights are stored: fp32, fp16 or bf16. They are computed with in fp32.
        input_shapes: shapes of inputs that are dynamic beyond the batch.
        fixed: inputs that become constants: input → a number, nested lists, or an array.
        name: of the network; by default the file's.
        tune: choose between sparse and dense kernels, and the size of sparse tiles, by timing them
            here, not by a cost model.
        verify_with: inputs to compare the engine on, beside random ones: a .npy or .npz file, the
            only input's array, or input → array. [n, ...], or exactly the inputs' shapes where the
            batch is fixed and its samples meet.

    Raises:
        UsageError: an option that cannot be meant, or inputs that do not fit the network.
        CompileError: the network cannot be compiled, says where and why; there is no compiler; or
            the engine differs from the reference, says in which step that arises.
        FileError: the model cannot be read, or the inputs.
    """
    _check_values(values)
    given = _own(verify_with, target)
    source = _source(source)
    goal, network, known, name = _planned(source, target, input_shapes, fixed, name, tune)
    own = () if verify_with is None else own_inputs.samples(network, given)
    written = source_of(network, name, values=values, origin=_content(source))
    content = built(written, goal)
    difference = None
    if goal.name == "native":
        difference = _compared(network, known, own, values, name, goal, content)
    names = {n.name for n in network.graphs[0].nodes if n.op in choice.INTEGER}
    floats = [most > 0 for name, most in network.sparse.items() if name not in names]
    counts = sum(floats), len(floats) - sum(floats), len(names)
    words = sum(network.sparse.get(name, 0) > 0 for name in names)
    return Compiled(content, written, goal, difference, *counts, words, len(own))


def _compared(
    network: Network,
    known: verification.Truth,
    own: Sequence[verification.Arrays],
    values: str,
    name: str,
    goal: Target,
    content: bytes,
) -> float:
    """Return by how much an engine differs from the reference; an error says where it arises."""
    truths = [(known, False)]
    truths += [(verification.truth_of(network, own), True)] if own else []
    try:
        with Engine(content) as engine:
            return max(
                verification.verify(network, truth, engine, values, own=mine)
                for truth, mine in truths
            )
    except verification.DifferenceError as error:
        where = diagnosis.told(
            network,
            error.batch,
            values,
            lambda other: Engine(built(source_of(other, name, values=values), goal)),
        )
        raise CompileError(f"{error}; {where}; please report this network") from error


def _own(verify_with: Given | None, target: str) -> Any:
    if verify_with is not None and target != "native":
        raise UsageError(
            f"verify_with (--verify-with) is for this machine's own code, and that for {target} is "
            "not run here; leave it out"
        )
    return own_inputs.load(verify_with) if verify_with is not None else None


def _check_values(values: str) -> None:
    if values not in VALUES:
        raise UsageError(f"values are stored as {', '.join(VALUES)}, not {values!r}")


def _source(given: Path | str | bytes) -> Path | bytes:
    if isinstance(given, bytes):
        return given
    path = Path(given)
    destination.refuse_other(path)
    return path


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _planned(
    source: Path | bytes,
    target: str,
    input_shapes: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, Value],
    name: str | None,
    tune: bool,
) -> tuple[Target, Network, verification.Truth, str]:
    if name is not None and not isinstance(name, str):
        raise UsageError(f"the name of a network is {name!r}; give a text")
    goal = toolchain.target(target)
    if tune and goal.name != "native":
        raise UsageError(f"tuning measures on this machine, which cannot run code for {goal.name}")
    machine = Machine(goal.lanes, goal.registers, goal.matrix)
    network, known = _prepared(source, machine, input_shapes, fixed)
    nan_weights.warn(network.reference)
    name = name or (source.stem if isinstance(source, Path) else "network")
    # the name of a file need not be text, but JSON is
    name = name.encode("utf-8", "backslashreplace").decode()
    return goal, tuned(network, name, goal) if tune else network, known, name


def _prepared(
    source: Path | bytes,
    machine: Machine,
    input_shapes: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, Value],
) -> tuple[Network, verification.Truth]:
    network = prepare(source, machine, input_shapes=input_shapes, fixed=fixed)
    try:
        return network, verification.truth(network)
    except (CompileError, UsageError):  # or a position that a part of the batch has not
        if not network.fixed:
            raise
    # the samples of its batch meet: they are run together
    network = prepare(source, machine, input_shapes=input_shapes, fixed=fixed, whole=True)
    return network, verification.truth(network)


@checked(folder=PATH, force=BOOL, prefix=TEXT, **_OPTIONS)
def emit_c(
    source: Path | bytes,
    folder: Path,
    *,
    target: str = "native",
    values: str = "fp32",
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, Value] = EMPTY,
    name: str | None = None,
    tune: bool = False,
    verify_with: Given | None = None,
    prefix: str = "secateur",
    force: bool = False,
) -> None:
    """Write a network as a folder of C99 that needs nothing but a C compiler.

    For "native" it is compiled and verified first. The C of another target is written for that
    one's vectors and not verified. Args and errors are those of `compile_network`, and:

    Args:
        folder: to write; one of C that secateur wrote is replaced.
        prefix: what public names, the header and the libraries begin with: a name in C.
        force: write into a folder that holds other files, too, over those of the same names.

    Raises:
        UsageError: the folder is a file, or holds the model or other files; or names in C cannot
            begin with the prefix.
    """
    folder = Path(folder)
    source = _source(source)
    destination.refuse_folder(folder, source, force=force)  # before any work
    bundle.check_prefix(prefix)
    if target == "native":
        compiled = compile_network(
            source,
            values=values,
            input_shapes=input_shapes,
            fixed=fixed,
            name=name,
            tune=tune,
            verify_with=verify_with,
        )
        goal, written = compiled.target, compiled.source
    else:
        _check_values(values)
        _own(verify_with, target)
        goal, network, _, name = _planned(source, target, input_shapes, fixed, name, tune)
        written = source_of(network, name, values=values, origin=_content(source))
    parts = {"model.c": written.model}, written.stored, written.network, goal
    destination.write_folder(
        folder, lambda new: bundle.write_bundle(new, *parts, prefix=prefix), force=force
    )


def built(source: emit.Source, target: Target) -> bytes:
    """Return the content of an engine file, not verified."""
    library = toolchain.build({"model.c": source.model}, source.stored, source.network, target)
    return artifact.pack(library, target, source.network)


def tuned(network: Network, name: str, target: Target) -> Network:
    """Choose the kernel of every layer by timing engines of this machine.

    The time of a layer is that of one sample, summed over the programs, as in `choice`.
    """
    usual = choice.sums(network.graphs[0], network.machine)
    best: dict[str, tuple[float, int]] = {}
    for times in TUNED:
        tried = {layer: int(times * most) for layer, most in usual.items()}
        every = replace(network, sparse=tried, fixed=0)  # any number of samples
        with Engine(built(source_of(every, name), target), threads=1) as engine:
            for layer, seconds in _layers(network, engine).items():
                best[layer] = min(best.get(layer, (np.inf, 0)), (seconds, tried[layer]))
    return replace(network, sparse={layer: most for layer, (_, most) in best.items()})


def _layers(network: Network, engine: Engine) -> dict[str, float]:
    """Return the seconds of every layer for one sample, summed over the programs."""
    total = dict.fromkeys(network.sparse, 0.0)
    rng = np.random.default_rng(0)
    for graph, program in zip(network.graphs, network.programs, strict=True):
        inputs = list(samples.draw(rng, graph).values())
        best: dict[str, float] = {}
        for _ in range(5):
            for step, spent in engine.profile(*inputs, repeats=5):
                op, layer = step.split(" ", 1)
                # other steps may be called as a layer is
                if op in (*choice.LAYERS, *choice.INTEGER) and layer in network.sparse:
                    best[layer] = min(best.get(layer, np.inf), spent)
        for layer in total:
            total[layer] += best[layer] / program.batch
    return total


def source_of(
    network: Network, name: str, *, values: str = "fp32", origin: bytes = b""
) -> emit.Source:
    """Write the C of a network; `values` is one of `VALUES`."""
    graph = network.graphs[0]
    picking = indices.ranges(network.reference, batched=network.batched)
    info = {
        "name": name,
        "secateur": VERSION,
        "batched": network.batched and not network.fixed,
        "samples": network.fixed or 1,
        "values": values,
        "precision": _precision(graph),
        "origin": hashlib.sha256(origin).hexdigest(),
        "inputs": [_described(network, graph, v, picking) for v in graph.inputs],
        "outputs": [_described(network, graph, v) for v in graph.outputs],
        "merged": [] if network.fixed else list(network.rows),
        "batches": [p.batch for p in network.programs],
    }
    return emit.emit(
        graph,
        network.programs,
        network.machine,
        sparse=network.sparse,
        loads=network.loads or choice.unknown(network.programs),
        fixed=network.fixed,
        info=info,
        values=values,
    )


def _precision(graph: Graph) -> str:
    """Return what the layers are computed in, as `secateur bench` names it."""
    ops = {node.op for node in graph.nodes}
    if ops.isdisjoint(choice.INTEGER):
        return "f32"
    return "int8" if ops.isdisjoint(choice.LAYERS) else "int8, rest f32"


def _described(
    network: Network,
    graph: Graph,
    value: str,
    picking: Mapping[str, indices.Range] = EMPTY,
) -> dict[str, Any]:
    tensor = graph.types[value]
    shape = list(tensor.shape[1:] if network.batched else tensor.shape)
    if network.fixed:  # the caller's array
        own = shape.pop(0) if value in network.rows else 1
        shape.insert(0, network.fixed * own)
    range_ = {"indices": list(picking[value])} if value in picking else {}
    return {"name": value, "dtype": tensor.dtype.name, "shape": shape, **range_}
