"""Models to measure, and results as measuring gives them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console

from secateur import bench
from secateur.bench.result import Result, Timing

MARKUP = "[/b]\x1b[2J[red]x:smile:\n\u202e\udc80"


def linear(folder: Path) -> Path:
    """A linear layer of 8 to 4 with half its weights zero, and ReLU; the batch is dynamic."""
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weights[::2] = 0
    return saved(
        folder / "model.onnx",
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
            onnx.helper.make_node("Relu", ["h"], ["y"]),
        ],
        {"x": ("FLOAT", ["batch", 8])},
        {"w": weights},
    )


def saved(
    path: Path,
    nodes: list[Any],
    given: dict[str, tuple[str, list[int | str]]],
    constants: dict[str, Any],
) -> Path:
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [
            onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)
            for name, (kind, shape) in given.items()
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def timing(engine: str, batch: int, *rounds: float, **more: Any) -> Timing:
    facts = {"p50": rounds[0], "p95": rounds[-1], "runs": 9, "load": 0.5, "memory": 50_000_000}
    facts |= {"file": 1000, "difference": 0.0, "version": "1.0"}
    facts |= {"precision": "f32"}
    return Timing(engine=engine, batch=batch, rounds=rounds, **(facts | more))


def result(*timings: Timing, **more: Any) -> Result:
    return Result(
        model="net.onnx",
        date="2026-01-01 00:00 UTC",
        machine={"cpu": "a CPU", "os": "Linux"},
        cores=(0, 1),
        pinned=True,
        rounds=3,
        seconds=0.2,
        timings=timings,
        **more,
    )


def printed(found: Result, width: int = 200) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(bench.view(found))
    return text.getvalue()
