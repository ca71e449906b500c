"""The state of a staged pruning in a safetensors file: gates in float32, masks as bools."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from secateur import files
from secateur.errors import FileError
from secateur.pruning.gates.stages import Stage

FORMAT = "secateur stage 1"
_PARTS = ("gates", "momentum", "order")


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
    facts = {"stage": state["stage"], "number": gates.get("number", 0)}
    if gates:
        facts |= {"square": gates["square"], "averaged": gates["averaged"]}
    metadata = {"format": FORMAT, "state": json.dumps(facts)}
    files.write(path, safetensors.torch.save(tensors, metadata))


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote; the tensors are on the CPU.

    Raises:
        FileError: the file is missing, truncated, damaged, or holds something else.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FileError(
                    f"{path} holds no stage: its format is {metadata.get('format')!r}, not "
                    f"{FORMAT!r}; give a checkpoint that the callback wrote"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(f"cannot read {path}: {error}; resume from another checkpoint") from error
    try:
        facts = files.parse_json(metadata["state"])
        stage, number = facts["stage"], facts["number"]
        if stage not in get_args(Stage) or type(number) is not int or number < 0:
            raise ValueError(f"{facts} is no stage")
        square, averaged = facts.get("square", 0.0), facts.get("averaged", 0)
        if type(square) is not float or not 0 <= square < math.inf:
            raise ValueError(f"its square is {square!r}")
        if type(averaged) is not int or averaged < 0:
            raise ValueError(f"its averaged is {averaged!r}")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in (*_PARTS, "masks")}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            if tensor.dtype != (torch.bool if part == "masks" else torch.float32):
                raise ValueError(f"{key} is {tensor.dtype}")
            parts[part][name] = tensor
        masks = parts.pop("masks")
        if bool(masks) != (stage == "held") or bool(parts["gates"]) != (stage == "gates"):
            raise ValueError(f"its tensors are not those of stage {stage!r}")
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}; resume from another checkpoint") from error
    numbers = {"number": number, "square": square, "averaged": averaged}
    gates = {**numbers, **parts} if stage == "gates" else {}
    return {"stage": stage, "gates": gates, "masks": masks}
