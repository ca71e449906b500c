"""Compile in one call: any model in, an engine that is loaded out."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from secateur.arguments import BOOL, PATH, checked, unknown
from secateur.compiler import destination
from secateur.compiler.pipeline import compile_network
from secateur.compiler.runtime import Engine
from secateur.errors import UsageError

OPTIONS = tuple(signature(compile_network).parameters)[1:]
"""What `compile` hands on."""


@checked(out=PATH, force=BOOL)
def compile(
    model: Any,
    example: Any = None,
    *,
    out: Path | str | None = None,
    threads: int | None = None,
    force: bool = False,
    **options: Any,
) -> Engine:
    """Compile a network for this machine, and load it.

    Args:
        model: an ONNX file, its content, or a torch module.
        example: the module's inputs, a tensor or a sequence of them; only for a torch module.
        out: where to write the engine file; by default it stays in memory.
        threads: see `Engine.load`.
        force: write over a file that is no engine, such as the model itself.
        options: of `compile_network`: values, input_shapes, fixed, name, tune, verify_with.

    Returns:
        engine; `engine(x)` takes and gives numpy arrays.

    Raises:
        UsageError, CompileError, FileError: see `compile_network`, `export.to_onnx` and
            `Compiled.write`.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise unknown("compile", name, (*signature(compile).parameters, *OPTIONS), value)
    path = None if out is None else Path(out)
    if path is not None:
        destination.refuse_file(path, force=force)  # before any work
    compiled = compile_network(_source(model, example), **options)
    if path is not None:
        compiled.write(path, force=force)
    return compiled.engine(threads)


def _source(model: Any, example: Any) -> Path | bytes:
    if isinstance(model, type):
        name = model.__name__
        raise UsageError(f"{name} is a class; give a module, as {name}(...) makes one")
    if isinstance(model, (bytes, Path, str)):
        if example is not None:
            raise UsageError("example is for a torch module; an ONNX model knows its inputs")
        return model if isinstance(model, bytes) else Path(model)
    if hasattr(model, "SerializeToString"):  # an onnx.ModelProto
        return bytes(model.SerializeToString())
    if not hasattr(model, "state_dict"):
        raise UsageError(
            f"a {type(model).__name__} cannot be compiled; give an ONNX file, its content, or a "
            "torch module with an example of its input"
        )
    model = getattr(model, "_orig_mod", model)  # inside torch.compile's wrapper
    if example is None:
        raise UsageError("a torch module is traced: give an example of its input as well")
    from secateur.export import to_onnx

    return to_onnx(model, example)
