"""An ONNX file is run as others run it, and its outputs compared with torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from secateur.errors import CompileError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Run = Callable[[Mapping[str, Array]], Sequence[Array]]


def outputs(content: bytes, inputs: Sequence[Mapping[str, Array]]) -> list[Sequence[Array]]:
    """Return what an ONNX file gives for each of several inputs.

    Args:
        content: of the file.
        inputs: arrays by name; those that it does not have are left out.

    Raises:
        CompileError: it cannot be run, neither by onnxruntime nor by onnx's reference.
    """
    try:
        return _all(_runtime(content), inputs)
    except Exception:  # not installed, or an operator or dtype that it lacks
        try:
            return _all(_reference(content), inputs)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CompileError(
                f"the ONNX file cannot be run to compare it with torch: {reason[0]}; nothing was "
                "written. pip install onnxruntime, or export without the comparison with to_onnx"
            ) from error


def _all(
    session: tuple[Run, list[str]], inputs: Sequence[Mapping[str, Array]]
) -> list[Sequence[Array]]:
    call, names = session
    # the exporter leaves out inputs that nothing reads
    return [call({name: arrays[name] for name in names}) for arrays in inputs]


def _runtime(content: bytes) -> tuple[Run, list[str]]:
    onnxruntime: Any = import_module("onnxruntime")  # it has no types
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed)), [i.name for i in session.get_inputs()]


def _reference(content: bytes) -> tuple[Run, list[str]]:
    import onnx
    import onnx.reference

    session: Any = onnx.reference.ReferenceEvaluator(onnx.load_from_string(content))
    return lambda feed: session.run(None, dict(feed)), list(session.input_names)


def difference(got: Array, wanted: Array) -> float:
    """Return the largest difference, relative to the largest finite value wanted."""
    import numpy as np

    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return np.inf
    if got.dtype.kind in "biu":
        return np.inf if (got != wanted).any() else 0.0
    wide = np.complex128 if got.dtype.kind == "c" else np.float64
    one, other = got.astype(wide), wanted.astype(wide)
    with np.errstate(invalid="ignore"):
        scale = float(np.max(np.abs(other[np.isfinite(other)]), initial=0.0)) or 1.0
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        off = np.where(same, 0.0, np.abs(one - other))
    return float(np.max(np.where(np.isnan(off), np.inf, off), initial=0.0)) / scale
