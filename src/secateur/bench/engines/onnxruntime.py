"""ONNX Runtime: as it comes, and with the network quantised by its own tools."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("onnxruntime==1.32.0", "numpy==2.4.6")
PEERS: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "onnxruntime-int8": {"quantised": True, "packages": ("onnx==1.23.2", "sympy==1.14.0")},
}

_QUANTISES = b'"\x0eQuantizeLinear'
"""A node's operator in an ONNX file: field 4 of NodeProto, 14 bytes long."""


def load(
    model: str,
    feeds: dict[str, Any],
    threads: int,
    axes: dict[str, int],
    settings: dict[str, Any],
) -> tuple[Any, Callable[[dict[str, Any]], list[Any]], str]:
    """See the package; a network with quantised values in its file runs in int8."""
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for axis, extent in axes.items():
        options.add_free_dimension_override_by_name(axis, extent)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    precision = "int8 (QDQ)" if _is_quantised(Path(model)) else "f32"
    return session, lambda feeds: session.run(None, feeds), precision


def quantise(
    model: str, folder: str, batches: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> tuple[list[str], str]:
    """See the package: static, QDQ, weights per output channel, activations in uint8.

    First come shape inference and ONNX Runtime's own folding of batch norms, as its guide asks.
    """
    ort, tools = import_module("onnxruntime"), import_module("onnxruntime.quantization")
    prepare = import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    prepared, out = str(Path(folder) / "prepared.onnx"), str(Path(folder) / "int8.onnx")
    try:
        prepare(model, prepared)
    except Exception:  # symbolic shapes are for transformers, and do not know every operator
        prepare(model, prepared, skip_symbolic_shape=True)

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, Any]] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    tools.quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=_saturates(),
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
    )
    if not _is_quantised(Path(out)):
        raise ValueError("it has no operator that ONNX Runtime quantises")
    return [out], f"onnxruntime {ort.__version__}"


def _is_quantised(model: Path) -> bool:
    """Return whether a file has such a node. In pieces: the process's memory is measured."""
    before = b""
    with model.open("rb") as file:
        while piece := file.read(1 << 20):
            if _QUANTISES in before + piece:
                return True
            before = piece[-len(_QUANTISES) :]
    return False


def _saturates() -> bool:
    """Return whether int8 products are summed in 16 bits here, so that weights may have 7 only."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    with suppress(OSError):
        return "vnni" not in Path("/proc/cpuinfo").read_text()
    return True
