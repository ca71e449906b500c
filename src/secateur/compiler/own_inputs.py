"""Inputs of the caller's own, to compare an engine with the reference on: cut into samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secateur import files
from secateur.arguments import Wanted
from secateur.compiler.graph import Tensor
from secateur.compiler.network import Network
from secateur.errors import UsageError, printable

Given = Path | str | np.ndarray | Mapping[str, np.ndarray]
"""A .npy or .npz file, the array of the only input, or input → array."""

GIVEN = Wanted(
    lambda v: isinstance(v, (str, Path, Mapping)) or hasattr(v, "dtype"),
    "a .npy or .npz file, the only input's array, or input → array",
)


def load(given: Given) -> Any:
    """Return arrays that may lie in a file.

    Raises:
        FileError: see `files.read_arrays`.
    """
    if isinstance(given, (str, Path)):
        return files.read_arrays(Path(given), "inputs to verify with")
    return given


def samples(network: Network, given: Any) -> tuple[dict[str, np.ndarray], ...]:
    """Return arrays as samples, each {input: array} as the network's reference takes them.

    Args:
        network: what was compiled.
        given: of `load`: [n, ...] where samples can be told apart, n a multiple of a batch that
            the file fixes; else arrays of exactly the shapes of the inputs.

    Raises:
        UsageError: other names, shapes or kinds of numbers; different counts, or none.
    """
    graph = network.reference
    arrays = _by_name(graph.inputs, given)
    own = {
        name: _fitting(name, graph.types[name], array, cut=network.batched)
        for name, array in arrays.items()
    }
    if not network.batched:
        return (own,)
    counts = {name: len(array) for name, array in own.items()}
    count = min(counts.values(), default=0)
    if len({*counts.values()}) > 1 or not count:
        said = ", ".join(f"{n} of {name!r}" for name, n in counts.items()) or "none"
        raise UsageError(f"verify_with holds samples: {said}; give as many of each, at least one")
    if network.fixed and count % network.fixed:
        raise UsageError(
            f"verify_with holds {count} samples, but the file fixes a batch of "
            f"{network.fixed}; give a multiple of that"
        )
    return tuple({name: array[k : k + 1] for name, array in own.items()} for k in range(count))


def _by_name(names: tuple[str, ...], given: Any) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping) and len(names) == 1 and list(given) == ["arr_0"]:
        given = given["arr_0"]  # of a file in which numpy named it
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise UsageError(
                f"verify_with is one array, but the network has the inputs "
                f"{_listed(names)}; give an array for each by name, such as an .npz file"
            )
        given = {names[0]: given}
    if set(given) != set(names):
        raise UsageError(
            f"verify_with has the names {_listed(tuple(given))}, but the network's "
            f"inputs are {_listed(names)}; use exactly these"
        )
    return {name: np.asarray(given[name]) for name in names}


def _listed(names: tuple[str, ...]) -> str:
    return printable(", ".join(map(repr, names))) or "none"


def _fitting(name: str, wanted: Tensor, array: np.ndarray, *, cut: bool) -> np.ndarray:
    """Return the samples of one input in its dtype."""
    shape = ("n", *wanted.shape[1:]) if cut else wanted.shape
    same = array.shape[1:] == wanted.shape[1:] if cut else array.shape == wanted.shape
    if array.ndim != len(shape) or not same:
        raise UsageError(
            f"input {name!r} to verify with has shape {list(array.shape)}, but "
            f"[{', '.join(map(str, shape))}] is needed"
        )
    kind = "f" if wanted.dtype.kind == "f" else "b" if wanted.dtype.kind == "b" else "iu"
    with np.errstate(over="ignore"):
        taken = array.astype(wanted.dtype, order="C") if array.dtype.kind in kind else None
    if taken is None or (kind == "iu" and not np.array_equal(taken, array)):
        raise UsageError(
            f"input {name!r} to verify with has dtype {array.dtype}, but {wanted.dtype} is needed; "
            "convert it as the network's user does"
        )
    return taken
