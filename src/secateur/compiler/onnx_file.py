"""ONNX files as they lie on a disk: read, and looked at before anything believes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import CompileError, FileError

if TYPE_CHECKING:
    from onnx import ModelProto


def parse(source: Path | bytes) -> tuple[ModelProto, Path | None]:
    """Return a model as the file says it, and the folder that its data may lie in.

    Raises:
        FileError: it cannot be read, or is no ONNX file.
        CompileError: the package `onnx` is missing.
    """
    try:
        from onnx import ModelProto
    except ImportError as error:
        raise CompileError("reading a model takes the package onnx: pip install onnx") from error
    folder, what = None, "the model"
    if isinstance(source, bytes):
        data = source
    else:
        folder, what = source.parent, str(source)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise FileError(f"cannot read {source}: {error.strerror or error}") from error
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # DecodeError, whose package carries no types
        raise FileError(f"{what} is not an ONNX file, or is truncated or damaged") from error
    _check_text(proto, what)
    if not proto.HasField("graph") or not proto.opset_import:
        raise FileError(f"{what} is not an ONNX file, or is truncated: it holds no whole graph")
    return proto, folder


def _check_text(message: Any, what: str) -> None:
    """Refuse strings that are not UTF-8: protobuf gives them as bytes, which nothing expects."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                _check_text(part, what)
        elif field.type == field.TYPE_STRING:
            for text in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise FileError(f"{what} is damaged: the name {text!r} is not valid text")
