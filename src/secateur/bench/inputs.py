"""Random inputs for any network, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.compiler.onnx_inputs import option
from secateur.errors import FileError, UsageError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a network."""

    name: str
    dtype: str
    """numpy's name of it."""
    shape: tuple[int | str, ...]
    """An axis with a name is dynamic; it may be the first only."""


def of_onnx(path: Path, shapes: Mapping[str, Sequence[int]]) -> tuple[Input, ...]:
    """Return the inputs of an ONNX file, those that have no initial value.

    Args:
        path: the file.
        shapes: input → its shape, for axes beyond the first that are dynamic.

    Raises:
        FileError: it is not an ONNX file.
        UsageError: an axis beyond the first is dynamic, and no shape is given.
    """
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # whatever protobuf raises
        raise FileError(f"cannot read {path}: {error}; is it an ONNX file, and whole?") from None
    constants = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
        dtype = "float32" if dtype == "bfloat16" else dtype  # as the compiler takes it
        sizes = [axis.dim_param or axis.dim_value or "batch" for axis in kind.shape.dim]
        found.append(Input(value.name, dtype, _fixed(value.name, sizes, shapes.get(value.name))))
    return tuple(found)


def onnx_bytes(path: Path) -> int:
    """Return the size of an ONNX file together with the files its weights lie in."""
    import onnx

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    places = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in places)))


def of_artifact(path: Path) -> tuple[Input, ...]:
    """Return the inputs of a compiled network.

    Raises:
        CompileError: it cannot be loaded here.
    """
    from secateur.compiler.runtime import Engine

    info = Engine.load(path).info
    first = ("batch",) if info["batched"] else ()
    return tuple(Input(i["name"], i["dtype"], (*first, *i["shape"])) for i in info["inputs"])


def _fixed(
    name: str, axes: Sequence[int | str], shape: Sequence[int] | None
) -> tuple[int | str, ...]:
    if shape is not None:
        if len(shape) != len(axes):
            raise UsageError(f"input {name!r} has {len(axes)} axes, but its shape is given {shape}")
        axes = [axes[0], *shape[1:]]
    if any(isinstance(axis, str) for axis in axes[1:]):
        raise UsageError(
            f"input {name!r} has shape {list(axes)}, where more than the first axis is dynamic; "
            f"fix it with {option(name, '...')}"
        )
    return tuple(axes)


def draw(inputs: Sequence[Input], batch: int, *, seed: int = 0) -> dict[str, Array]:
    """Return name → a batch for each input: normal floats; zeros and ones for integers, booleans.

    Raises:
        UsageError: an input's first axis is fixed at another number, or no input has one; or the
            batch does not go into memory.
    """
    if batch != 1 and not any(given.shape for given in inputs):
        raise UsageError(
            f"no input of this network has an axis for a batch, so {batch} cannot be measured; "
            "give --batch 1"
        )
    generator = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for given in inputs:
        first, *rest = given.shape or (batch,)
        if isinstance(first, int) and first != batch:
            raise UsageError(
                f"input {given.name!r} has a batch fixed at {first}, so {batch} cannot be "
                f"measured; give --batch {first}, or export the network with a dynamic batch"
            )
        shape = (batch, *(int(axis) for axis in rest)) if given.shape else ()
        try:
            if np.dtype(given.dtype).kind == "f":
                arrays[given.name] = generator.standard_normal(shape).astype(given.dtype)
            else:
                arrays[given.name] = generator.integers(0, 2, shape).astype(given.dtype)
        except MemoryError:
            raise UsageError(
                f"a batch of {batch} of input {given.name} takes more memory than there is; "
                "give a smaller one with --batch"
            ) from None
    return arrays


def extent(feeds: Mapping[str, Array]) -> int:
    """Return the batch of drawn inputs; 1 where none has an axis for it."""
    return max((len(array) for array in feeds.values() if array.ndim), default=1)


def axes(inputs: Sequence[Input], batch: int) -> dict[str, int]:
    """Return dynamic axis → its extent."""
    return {axis: batch for given in inputs for axis in given.shape if isinstance(axis, str)}
