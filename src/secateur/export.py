"""From a torch module to ONNX, the compiler's front door."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import CompileError, UsageError

if TYPE_CHECKING:
    import torch

OPSET = 17
"""Version of ONNX's operators: the oldest that has LayerNormalization as one operator, so that
every runtime in use reads the files."""


def to_onnx(
    module: torch.nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    *,
    batched: bool = True,
) -> bytes:
    """Export a module, in evaluation mode, with its weights.

    Args:
        module: it is left in the mode that it was in.
        example: its inputs, one tensor or several; only their shapes and dtypes matter.
        batched: leave the first axis of every input and output free.

    Returns:
        an ONNX file's content.

    Raises:
        UsageError: the example is not made of tensors.
        CompileError: torch cannot export the module, with its reason; or `onnx` is missing.
    """
    import torch

    examples = (example,) if isinstance(example, torch.Tensor) else tuple(example)
    if not examples or not all(isinstance(e, torch.Tensor) for e in examples):
        raise UsageError("example must be a tensor or a sequence of tensors: the module's inputs")
    inputs = [f"input{i}" if len(examples) > 1 else "input" for i in range(len(examples))]
    training = module.training
    try:
        module.eval()
        with (
            tempfile.TemporaryDirectory() as folder,
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # the exporter's advice to its own developers
            given = module(*examples)
            several = isinstance(given, (tuple, list))
            outputs = [f"output{i}" for i in range(len(given))] if several else ["output"]
            free = {name: {0: "batch"} for name in (*inputs, *outputs)} if batched else None
            # The older exporter needs no more than the package onnx, and its graphs are plain.
            path = Path(folder) / "network.onnx"
            torch.onnx.export(
                module,
                examples,
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=free,
            )
            return path.read_bytes()
    except ModuleNotFoundError as error:
        raise CompileError(
            f"exporting needs the package {error.name}: pip install 'secateur[compile]'"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompileError(
            f"torch cannot export {type(module).__name__} to ONNX: {reason}"
        ) from error
    finally:
        module.train(training)
