"""What quantising gives: the file, and what was done to each layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur import files
from secateur.arguments import BOOL, PATH, checked


@dataclass(frozen=True)
class Row:
    """What was done to a layer.

    Attributes:
        name: of its node.
        kind: Conv, Gemm or MatMul.
        precision: int8 or fp32.
        why: of fp32, the reason; "" for int8.
        error: what rounding does to its outputs in the quantised network: the root of the mean
            square of the difference, relative to that of the outputs. None for fp32.
        alone: the error of the network's outputs where this layer alone is quantised; None where
            that was not measured, because no layer had to go back to fp32.
    """

    name: str
    kind: str
    precision: str
    why: str
    error: float | None
    alone: float | None


@dataclass(frozen=True)
class Quantized:
    """A quantised network.

    Attributes:
        content: of the ONNX file, in QDQ form.
        rows: what was done to each layer, in order.
        error: of the outputs on calibration data: the root of the mean square of their
            difference from the float network's, relative to that of the float network's; the mean
            over outputs.
        drop: what `max_drop` limits, measured; None without one.
        method: how ranges of values were chosen.
        clipped: whether ranges of weights end before the largest weight.
        corrected: whether biases were corrected.
        equalized: whether channels between layers were made of more equal size.
        smoothed: whether channels of float32 values were, before layers round them.
        exact: whether functions of one number behind layers, such as GELU, are computed in float32
            on what the layer gives, and not from a table of its 256 rounded values.
        errors: by method, the error with which it was compared.
        samples: of calibration data.
    """

    content: bytes
    rows: tuple[Row, ...]
    error: float
    drop: float | None
    method: str
    clipped: bool
    corrected: bool
    equalized: bool
    smoothed: bool
    exact: bool
    errors: dict[str, float]
    samples: int

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the layers in int8."""
        return tuple(row.name for row in self.rows if row.precision == "int8")

    @property
    def fp32(self) -> tuple[str, ...]:
        """Names of the layers in fp32."""
        return tuple(row.name for row in self.rows if row.precision == "fp32")

    @checked(path=PATH, force=BOOL)
    def save(self, path: Path | str, *, force: bool = False) -> None:
        """Write the ONNX file, whole or not at all.

        Args:
            path: of the file.
            force: replace a file that is there, whatever it is. Without it only a quantised model
                is replaced, since any other may be the float model.

        Raises:
            UsageError: there is another file, or a folder.
            FileError: it cannot be written; what was there before stays.
        """
        path = Path(path)
        refuse_file(path, force=force)
        files.write(path, self.content)

    def document(self) -> dict[str, Any]:
        """Return all but the file itself as JSON values."""
        return {
            "bytes": len(self.content),
            "layers": [asdict(row) for row in self.rows],
            "samples": self.samples,
            "error": self.error,
            "drop": self.drop,
            "ranges": {"method": self.method, "errors": dict(self.errors)},
            "clipped": self.clipped,
            "corrected": self.corrected,
            "equalized": self.equalized,
            "smoothed": self.smoothed,
            "exact": self.exact,
        }

    def summary(self) -> str:
        """Return what was done, in a few lines."""
        lines = [
            f"{len(self.int8)} of {len(self.rows)} layers in int8, from {self.samples} samples: "
            f"ranges by {self.method}"
            + (", weights clipped" if self.clipped else "")
            + (", biases corrected" if self.corrected else "")
            + (", channels equalised" if self.equalized else "")
            + (", channels of float32 values divided" if self.smoothed else "")
            + (", functions in float32" if self.exact else "")
            + f"; error of the outputs {self.error:.2%}"
            + ("" if self.drop is None else f"; drop {self.drop:.4g}")
        ]
        lines += [f"fp32: {row.name} ({row.why})" for row in self.rows if row.precision == "fp32"]
        return "\n".join(lines)


def refuse_file(path: Path, *, force: bool = False) -> None:
    """Refuse to write over a file that is no quantised model.

    Raises:
        UsageError, FileError: see `files.refuse_loss`.
    """
    files.refuse_loss(path, is_quantised, "quantised ONNX model", force=force)


def is_quantised(path: Path) -> bool:
    """Whether a file is an ONNX model with QuantizeLinear or DequantizeLinear in it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        import onnx

        nodes = onnx.load(path, load_external_data=False).graph.node
    except OSError:
        raise
    except Exception:  # whatever protobuf raises
        return False
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)
