"""The state of a staged pruning in a safetensors file: gates in float32, masks as bools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import Tensor

from secateur import files
from secateur.pruning.gates.stages import Stage

_PARTS = ("gates", "momentum", "order")


class _State(msgspec.Struct):
    stage: Stage
    number: files.Size
    square: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    averaged: files.Size = 0


class _Facts(msgspec.Struct):
    state: _State


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write what `StagedPruning.state_dict` returned, whole or not at all.

    Tensors are named `gates/<name>`, `momentum/<name>`, `order/<name>` and `masks/<name>`; the
    metadata hold `format`, and `state`: stage, number of steps, and the sum of gradients' squares
    with its number of steps, as JSON.

    Raises:
        FileError: the file cannot be written.
    """
    gates = state["gates"]
    parts = {part: gates.get(part, {}) for part in _PARTS} | {"masks": state["masks"]}
    tensors = {
        f"{part}/{name}": tensor.contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    numbers = {"number": 0} | {n: gates[n] for n in ("number", "square", "averaged") if n in gates}
    facts = _Facts(_State(state["stage"], **numbers))
    metadata = files.metadata_of(files.STAGE, facts)
    files.write(path, files.content_of(tensors, metadata, "torch"))


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote; the tensors are on the CPU.

    Raises:
        FileError: the file is missing, truncated, damaged, or holds something else.
    """
    with files.open_tensors(path, files.STAGE, framework="torch") as tensors:
        state = tensors.facts(_Facts).state
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*_PARTS, "masks")}
        for key, (dtype, _) in tensors.kinds().items():
            part, _, name = key.partition("/")
            if part not in parts or dtype != ("BOOL" if part == "masks" else "F32"):
                raise ValueError(f"{key!r} is {dtype}, and no part of a stage")
            parts[part][name] = tensors[key]
        masks = parts.pop("masks")
        if bool(masks) != (state.stage == "held") or bool(parts["gates"]) != (
            state.stage == "gates"
        ):
            raise ValueError(f"its tensors are not those of stage {state.stage!r}")
    numbers = {"number": state.number, "square": state.square, "averaged": state.averaged}
    gates = {**numbers, **parts} if state.stage == "gates" else {}
    return {"stage": state.stage, "gates": gates, "masks": masks}
