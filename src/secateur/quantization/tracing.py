"""The float network of a torch module, ready for any number of samples.

Tracing writes into shapes what Python code computed from the number of samples, such as `len(x)`.
Such a network is traced with another number of samples and its batch fixed, and the compiler's
rule for fixed batches says what it is for any other; whether the module does the same is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from secateur.compiler import fixed_batch, passes
from secateur.compiler.graph import EMPTY, Graph
from secateur.errors import CompileError
from secateur.export import exported, to_onnx
from secateur.model.batch import rows
from secateur.model.inputs import Inputs, names_of, run, tensors_in
from secateur.model.modes import uncompiled, without_autocast
from secateur.model.passes import undisturbed
from secateur.quantization import network, running
from secateur.quantization.network import Float

TRACED = 11
"""Samples that a module is traced with where its batch is written into shapes; a prime, so that
few of its axes have this extent."""

TRIED = 3
"""Samples on which the network for any number of them is compared with the module."""

SAME = 1e-3
"""Largest difference of what counts as the same, relative to the largest output."""


def read(
    module: nn.Module, example: Inputs, *, input_shapes: Mapping[str, tuple[int, ...]] = EMPTY
) -> Float:
    """Return the network of a module in evaluation mode.

    Args:
        module: it is not changed.
        example: inputs of it, at least one sample, on its device.
        input_shapes: as in `network.read`.

    Raises:
        UsageError: as `network.read`.
        CompileError: torch cannot export it, or as `network.read`.
    """
    with without_autocast():
        content, _ = exported(module, example, batched=True)
    try:
        return network.read(content, input_shapes=input_shapes)
    except CompileError:
        found = _of_one_batch(module, example)
        if found is None:
            raise
        return found


def _of_one_batch(module: nn.Module, example: Inputs) -> Float | None:
    """Return the network of a module that is traced with a fixed batch; None if it is of no use."""
    with without_autocast():
        content = to_onnx(module, rows(example, TRACED), batched=False)
    try:
        known = network.of_one_batch(content)
        few, many = (fixed_batch.of_samples(known, count) for count in network.COUNTS)
        graphs = (few, _named_as(few, many))
        made = network.free(*(passes.apply(graph, network.FLOAT_PASSES) for graph in graphs))
    except CompileError:
        return None
    return made if _gives_the_same(module, made, rows(example, TRIED)) else None


def _named_as(few: Graph, many: Graph) -> Graph:
    """Return the second of two graphs that differ in constants, which get the names of the first's.

    Constants that depend on the number of samples are named after it.
    """
    names = {
        b: a
        for mine, its in zip(few.nodes, many.nodes, strict=True)
        for a, b in zip(mine.inputs, its.inputs, strict=True)
        if a != b
    }
    nodes = tuple(replace(n, inputs=tuple(names.get(v, v) for v in n.inputs)) for n in many.nodes)
    return replace(
        many,
        nodes=nodes,
        constants={names.get(name, name): array for name, array in many.constants.items()},
        types={names.get(name, name): tensor for name, tensor in many.types.items()},
    )


def _gives_the_same(module: nn.Module, made: Float, example: Inputs) -> bool:
    """Whether network and module give the same for a number of samples that neither was made of."""
    with undisturbed(module), without_autocast(), uncompiled(module), torch.no_grad():
        wanted = [x.detach().cpu().numpy() for x in tensors_in(run(module, example))]
    data = {name: x.detach().cpu().numpy() for name, x in names_of(example).items()}
    found = [*running.run(made, {name: data[name] for name in made.graph.inputs}).values()]
    return len(found) == len(wanted) and all(
        one.shape == other.shape
        and np.abs(one - other).max(initial=0) <= SAME * np.abs(other).max(initial=0)
        for one, other in zip(found, wanted, strict=True)
    )
