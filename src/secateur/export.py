"""From a torch module to ONNX, the compiler's front door."""

from __future__ import annotations

import inspect
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from secateur import files
from secateur.arguments import BOOL, PATH, between, checked, shown
from secateur.errors import CompileError, SecateurError, UsageError
from secateur.model.batch import rows
from secateur.model.exportable import Exportable
from secateur.model.inputs import (
    Inputs,
    arguments,
    described,
    each,
    ends_of,
    names_of,
    run,
    tensors_in,
)
from secateur.model.modes import evaluating, experts_in_batches, uncompiled, without_cache
from secateur.onnx_outputs import difference, outputs

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

OPSET = 17
"""Version of ONNX's operators: the oldest that has LayerNormalization as one operator, so that
every runtime in use reads the files."""

COUNTED = "might cause the trace to be incorrect"
"""In what torch says where code makes a plain number of a size: `len(x)`, `int(x.shape[0])`."""

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of an output from torch's, relative to the largest one; 1e-4 for others."""

FRESH = 2
"""How many random inputs the file is tried on, beside the example."""


def to_onnx(module: torch.nn.Module, example: Inputs, *, batched: bool = True) -> bytes:
    """Export a module, in evaluation mode, with its weights.

    The file's inputs are the example's tensors in their order, its outputs the tensors that the
    module gives, in tuples, dicts or dataclasses: "output"; "output0", "output1", ...; or by the
    names in dicts, dataclasses and named tuples. A decoder of transformers is exported without
    its cache of keys and values, XLNet without its memory.

    Args:
        module: it is left in the mode that it was in.
        example: its inputs: a tensor, a tuple of arguments, or a dict of arguments by name; of
            the tensors in it only shapes and dtypes matter, all else is fixed in the file. The
            inputs are called "input"; "input0", "input1", ...; or by the names in dicts,
            dataclasses and named tuples.
        batched: leave the first axis of every input and output free. It is the example's all the
            same where the module's code writes the number of samples into shapes: `len(x)`, or
            `int(x.shape[0])`, is a plain number to torch, where `x.shape[0]` is the axis.

    Returns:
        an ONNX file's content.

    Raises:
        UsageError: there is no tensor in the example, or something that no model takes.
        CompileError: torch cannot export the module, with its reason; or `onnx` is missing.
    """
    _check_module(module)
    content, doubted = exported(module, example, batched)
    if batched and doubted and not _fits_others(module, example, content):
        content, _ = exported(module, example, False)
    return content


def exported(module: torch.nn.Module, example: Inputs, batched: bool) -> tuple[bytes, bool]:
    """Trace a module, as `to_onnx` does, and take the free batch on trust.

    Returns:
        a file, and whether the module's code made plain numbers of sizes on its way.

    Raises:
        UsageError, CompileError: as `to_onnx`.
    """
    inputs = names_of(example)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        import_module("onnx")  # the exporter's own error does not say what to install
        torch.backends.mha.set_fastpath_enabled(False)  # ONNX knows its parts, not their fusion
        with (
            _quiet(),
            evaluating(module),
            without_cache(module),
            experts_in_batches(module),
            uncompiled(module),
            tempfile.TemporaryDirectory() as folder,
            torch.no_grad(),
            warnings.catch_warnings(record=True) as told,  # most is for its own developers
        ):
            warnings.simplefilter("always")
            with _Differences() as differences:
                given = _run(module, example)
            made = _tensors(given)
            ends = ends_of(given, inputs)
            ports = [*inputs.items(), *zip(ends, made, strict=True)]
            free = {name: {0: "batch"} for name, tensor in ports if tensor.dim()}
            # The older exporter needs no more than the package onnx, and its graphs are plain.
            path = Path(folder) / "network.onnx"
            with Exportable():
                torch.onnx.export(
                    _plain(module, example, given, differs=differences.taken),
                    tuple(inputs.values()),
                    path,
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=list(inputs),
                    output_names=ends,
                    dynamic_axes=free if batched else None,
                )
            return path.read_bytes(), any(COUNTED in str(each.message) for each in told)
    except SecateurError:
        raise
    except ModuleNotFoundError as error:
        raise CompileError(
            f"exporting needs the package {error.name}: pip install {error.name}"
        ) from error
    except Exception as error:
        raise CompileError(
            f"torch cannot export {type(module).__name__} to ONNX: {_reason(error)}\n"
            f"{_remedy(_reason(error))}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _fits_others(module: torch.nn.Module, example: Inputs, content: bytes) -> bool:
    """Return whether a file with a free batch is that of another number of samples too."""
    import onnx

    count = max((len(x) for x in names_of(example).values() if x.dim()), default=0)
    try:
        other, _ = exported(module, rows(example, count + 1), True)
    except CompileError:
        return False
    one, two = (onnx.load_from_string(each).graph for each in (content, other))
    return [*map(str, one.node)] == [*map(str, two.node)] and [*map(str, one.initializer)] == [
        *map(str, two.initializer)
    ]


def _run(module: torch.nn.Module, example: Inputs) -> Any:
    """Return what a module gives for its example.

    Raises:
        CompileError: it fails, and so is not even traced.
    """
    try:
        return run(module, example)
    except SecateurError:
        raise
    except Exception as error:
        takes = ", ".join(inspect.signature(module.forward).parameters)
        raise CompileError(
            f"{type(module).__name__} fails on the example of its inputs, "
            f"{described(example)}: {_reason(error)}\n"
            f"give inputs that it runs on: a tensor, a tuple of arguments, or a dict by the names "
            f"of forward's: {takes}"
        ) from error


def _reason(error: Exception) -> str:
    said = str(error).strip().partition("  [Caused by")[0]  # a line of torch's own code
    return said.splitlines()[0] if said else type(error).__name__


def _remedy(reason: str) -> str:
    """Return what to change where torch gives this reason."""
    if found := re.search(r"operator '([\w:.]+)'", reason):
        return (
            f"write what {found[1]} does with operations that ONNX has, or end the model before "
            "it and do that on what it gives"
        )
    return (
        "change the model so that its forward works on tensors alone, or export it yourself, for "
        "example with torch.onnx.export(..., dynamo=True), and give that file"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Let torch not print whole graphs where it fails; it switches that on by itself."""
    name = "_jit_onnx_log"
    right = getattr(torch._C, name)
    setattr(torch._C, name, lambda *_: None)
    try:
        yield
    finally:
        setattr(torch._C, name, right)


def _check_module(module: object) -> None:
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"the model is {shown(module)}; give a torch module")


class _Differences(TorchFunctionMode):
    """Sees whether differences of neighbours are taken."""

    taken = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.taken |= func is torch.diff
        return func(*args, **(kwargs or {}))


def _plain(
    module: torch.nn.Module, example: Inputs, given: object, *, differs: bool
) -> torch.nn.Module:
    """Return a module whose forward takes the example's tensors alone, and gives tensors alone.

    The exporter hands on the defaults of all other arguments as tensors, whatever they are.

    Args:
        module: what is exported.
        example: its inputs.
        given: what it gives for them.
        differs: it takes differences of neighbours. The exporter cannot, and decoders of
            transformers do it only where no mask says which tokens there are.
    """
    given_as = given if isinstance(given, (tuple, list)) else (given,)
    plain = [isinstance(value, torch.Tensor) for value in (*arguments(example)[0], *given_as)]
    wanted = list(inspect.signature(module.forward).parameters)
    count, known = len(wanted), {*wanted[: len(arguments(example)[0])], *arguments(example)[1]}
    unmasked = differs and "attention_mask" in {*wanted} - known
    if all(plain) and not isinstance(example, Mapping) and count <= len(arguments(example)[0]):
        return module

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: torch.Tensor) -> Any:
            left = iter(values)
            positional, by_name = arguments(each(example, lambda _: next(left)))
            tokens = by_name.get("input_ids", *positional[:1]) if unmasked else None
            if isinstance(tokens, torch.Tensor) and tokens.dtype == torch.long:
                by_name["attention_mask"] = torch.ones_like(tokens)
            out = tuple(_tensors(self.module(*positional, **by_name)))
            return out if len(out) > 1 else out[0]

    return Plain().eval()


@checked(
    path=PATH, tolerance=between(0, float("inf"), "a number, 0 or more"), batched=BOOL, force=BOOL
)
def export_onnx(
    model: torch.nn.Module,
    example: Inputs,
    path: str | Path,
    *,
    tolerance: float | None = None,
    batched: bool = True,
    force: bool = False,
) -> float:
    """Write a module, in evaluation mode, to an ONNX file that gives what torch gives.

    Both are run on the example and on random inputs like it (floats: normal; all others: the
    example's own values in another order), as far as the model takes those, before anything is
    written: by onnxruntime, or by onnx's reference where that is missing or lacks the operators or
    dtypes.

    Args:
        model: it is left in the modes that it was in.
        example: its inputs, as in `to_onnx`.
        path: of the file; the usual ending is .onnx.
        tolerance: largest difference of an output, relative to the largest finite one of torch's;
            by default 1e-4, or that of `TOLERANCE` for outputs in 16 bits. Integers and bools
            must be equal.
        batched: as in `to_onnx`.
        force: write over a file that is no ONNX, too.

    Returns:
        the largest relative difference that was seen.

    Raises:
        UsageError: as in `to_onnx`, or there is a file that is no ONNX.
        CompileError: torch cannot export the module, the file cannot be run, or its outputs
            differ; says which output, and by how much. Nothing was written.
        FileError: the file cannot be written.
    """
    path = Path(path)
    files.refuse_loss(path, _is_onnx, "ONNX file", force=force)  # before any work
    _check_module(model)
    names_of(example)
    with evaluating(model), without_cache(model):
        content = to_onnx(model, example, batched=batched)
        inputs = [example]
        generator = torch.Generator().manual_seed(0)
        inputs += [each(example, lambda e: _fresh(e, generator)) for _ in range(FRESH)]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own
            answers = list(_answers(model, inputs))
    feeds = [{name: _array(e) for name, e in names_of(given).items()} for given, _ in answers]
    wanted = [tensors for _, tensors in answers]
    given = outputs(content, feeds)
    worst = 0.0
    for tensors, arrays in zip(wanted, given, strict=True):
        if len(tensors) != len(arrays):
            raise CompileError(
                f"the ONNX file has {len(arrays)} outputs, but {type(model).__name__} gives "
                f"{len(tensors)} tensors; nothing was written"
            )
        for number, (tensor, got) in enumerate(zip(tensors, arrays, strict=True)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            limit = TOLERANCE.get(dtype, 1e-4) if tolerance is None else tolerance
            off = difference(got, _array(tensor))
            if not off <= limit:
                raise CompileError(
                    f"the ONNX file differs from torch by {off:.1e} in output {number} ({dtype}, "
                    f"{tuple(tensor.shape)}), more than {limit:.1e}; nothing was written. If the "
                    "model draws random numbers or is not meant for random inputs, export it with "
                    "to_onnx; if that much does not matter, give a larger tolerance"
                )
            worst = max(worst, off)
    files.refuse_loss(path, _is_onnx, "ONNX file", force=force)
    files.write(path, content)
    return worst


def _answers(
    model: torch.nn.Module, inputs: Sequence[Inputs]
) -> Iterator[tuple[Inputs, list[torch.Tensor]]]:
    """Yield inputs with what a model gives for them; of all but the first, those that it takes.

    The example's integers in another order need not be boxes, or lengths.
    """
    for number, given in enumerate(inputs):
        try:
            found = _tensors(run(model, each(given, torch.clone)))
        except Exception:
            if not number:
                raise
            continue
        yield given, [tensor.cpu() for tensor in found]


def _is_onnx(path: Path) -> bool:
    try:
        import onnx

        return bool(onnx.load(path, load_external_data=False).graph.node)
    except OSError:
        raise
    except Exception:  # whatever protobuf raises
        return False


def _fresh(example: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random input that is as valid as the example."""
    if example.is_floating_point():
        drawn = torch.randn(example.shape, generator=generator)
        return drawn.to(example.device, example.dtype)
    order = torch.randperm(example.numel(), generator=generator).to(example.device)
    return example.reshape(-1)[order].reshape(example.shape)


def _tensors(outputs: object) -> list[torch.Tensor]:
    """Return the tensors of an output in the exporter's order; it leaves out all else.

    Raises:
        CompileError: there is none.
    """
    found = list(tensors_in(outputs))
    if not found:
        raise CompileError(
            f"the model gives {type(outputs).__name__} without a tensor, but an ONNX file's "
            "outputs are tensors; wrap it in a module that gives tensors"
        )
    return found


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes  # comes with onnx: numpy has no bfloat16 of its own

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array
