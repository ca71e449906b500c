"""The file that a network is shipped as, made of training examples, and run in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.compiler import pipeline
from secateur.compiler.runtime import Engine
from secateur.errors import UsageError
from secateur.export import to_onnx
from secateur.model.copying import copied
from secateur.model.inputs import Inputs, head
from secateur.quantization.call import quantize
from secateur.quantization.result import Quantized
from secateur.training import Data

CALIBRATION = 256
"""Training examples that a network is quantised with."""
FEW = 16
"""Of them, where figures do not matter."""

_Array = np.ndarray[Any, Any]


def calibration(data: Data, seed: int, count: int | None = None) -> _Array:
    """Return unlabelled training examples, [CALIBRATION, ...] or as many as are asked for.

    Raises:
        UsageError: inputs are not one tensor, or examples differ in shape.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = data.calibration(CALIBRATION if count is None else count, 64, generator)
    return joined([array(batch) for batch in batches])


def quantised(model: nn.Module, data: Data, seed: int) -> Quantized:
    """Return a network in int8, quantised with training examples.

    Args:
        model: on any device, in evaluation mode; it stays as it is.
        data: of its task.
        seed: of which examples.

    Raises:
        UsageError: as `calibration` does.
        CompileError: the network cannot be exported, or has nothing to quantise.
    """
    examples = calibration(data, seed)
    example = torch.from_numpy(examples[:2])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same file, whoever asks for it
    try:
        return quantize(to_onnx(copied(model).cpu().eval(), example), examples)
    finally:
        torch.set_num_threads(threads)


@contextmanager
def running(content: bytes) -> Iterator[tuple[nn.Module, int]]:
    """Compile an ONNX file of one input and one output for this machine, and open it.

    Returns:
        What runs it in one thread, as a module that takes and gives tensors; bytes of the file.

    Raises:
        CompileError: it cannot be compiled.
    """
    compiled = pipeline.compile_network(content)
    with compiled.engine(threads=1) as engine:
        yield _Running(engine), len(compiled.content)


class _Running(nn.Module):
    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def forward(self, inputs: Inputs) -> Tensor:
        given = array(inputs)
        return torch.from_numpy(self._engine(given)).to(inputs.device)  # type: ignore[union-attr]


def array(inputs: Inputs) -> _Array:
    """Return one tensor of inputs as an array.

    Raises:
        UsageError: it is not one tensor.
    """
    if not isinstance(inputs, Tensor):
        raise UsageError(
            f"compiled networks are measured with one input, and these take a "
            f"{type(inputs).__name__}; run the study with --no-measure, and without --int8"
        )
    return np.ascontiguousarray(inputs.cpu().numpy())


def joined(batches: Sequence[_Array]) -> _Array:
    """Return batches as one array.

    Raises:
        UsageError: examples differ in shape.
    """
    if len(shapes := {batch.shape[1:] for batch in batches}) > 1:
        first, second, *_ = sorted(shapes)
        raise UsageError(
            "compiled networks are measured with inputs of one shape, and these have examples of "
            f"{list(first)} and {list(second)}; run the study with --no-measure, and without --int8"
        )
    return np.concatenate(batches)


def try_out(model: nn.Module, data: Data) -> None:
    """Quantise, compile and run a network, on a few examples: what fails, fails before a study.

    Raises:
        UsageError, CompileError: as `quantised` and `running` do.
    """
    few = calibration(data, 0, FEW)
    with running(quickly(model, data)) as (served, _):
        served(head(torch.from_numpy(few), 2))


def quickly(model: nn.Module, data: Data) -> bytes:
    """Return an int8 file of a network whose figures do not matter, such as for its speed.

    Raises:
        UsageError, CompileError: as `quantised` does.
    """
    few = calibration(data, 0, FEW)
    example = torch.from_numpy(few[:2])
    return quantize(to_onnx(copied(model).cpu().eval(), example), few, ranges="minmax").content
