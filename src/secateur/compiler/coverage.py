"""Which ONNX operators can be compiled: `python -m secateur.compiler.coverage` prints the table."""

from __future__ import annotations

from secateur.compiler import canonical, kernels, rewrites
from secateur.compiler.choice import LAYERS
from secateur.compiler.ops import operators
from secateur.compiler.passes import sequences

OURS = frozenset({
    "Activation", "Dequantize", "DequantizeBy", "DynamicGrid", "Fill", "FromQuads", "QuadAdd",
    "QuadAveragePool", "QuadConv", "QuadLinear", "QuadMaxPool", "QuadTable", "QuadTerms",
    "Quantize", "QuantizeBy", "Relayout", "ScatterRows", "ToQuads",
})  # fmt: skip
"""Operators that are none of ONNX."""

BY_A_PASS = {
    "BatchNormalization": "joined with the layer before it, or a scale and a shift",
    "Conv": "constant weights; 1-D to 3-D, sparse or dense",
    "CastLike": "a Cast, once types are known",
    "Constant": "folds away",
    "ConvInteger": "joined with its scales to a layer, or expressed by other operators",
    "Dropout": "in inference it does nothing",
    "If": "its condition must fold to a constant",
    "Loop": "unrolled: its number of turns must fold to a constant",
    "MatMulInteger": "joined with its scales to a layer, or expressed by other operators",
    "MaxPool": "with Indices: places come from windows laid side by side",
    "NonMaxSuppression": "as many rows as there can be; those that are no box are -1",
    "Scan": "unrolled",
}
"""Operators of which there is something to know; most of them a pass turns into others."""

BY_ONNX = frozenset({
    "AffineGrid", "Attention", "BlackmanWindow", "CausalConvWithState", "CenterCropPad",
    "HammingWindow", "HannWindow", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss",
    "RotaryEmbedding", "Shrink", "SoftmaxCrossEntropyLoss", "SwiGLU",
})  # fmt: skip
"""Operators that ONNX itself defines by operators that are compiled."""


def compiled() -> dict[str, str]:
    """Return every ONNX operator that can be compiled, with how: {name: note}."""
    ours = {*LAYERS, *OURS}
    found = {name: "" for name in kernels.kernels() if name not in ours}
    for name in operators():
        if name not in found and name not in ours:
            found[name] = "folds away: its inputs must be constant, or shapes"
    replaced = {*canonical.REPLACED, *rewrites.rules()}
    found |= dict.fromkeys(replaced, "expressed by other operators")
    found |= dict.fromkeys(BY_ONNX, "as ONNX defines it by other operators")
    found |= dict.fromkeys(sequences.RULES, "resolved: its positions and sizes must be constant")
    return dict(sorted({**found, **BY_A_PASS}.items()))


def table() -> str:
    """Return the table in Markdown: what is compiled, what is not, of the installed ONNX."""
    import onnx

    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    given = compiled()
    missing = sorted(known - set(given))
    lines = [
        "# ONNX operators",
        "",
        f"Written by `python -m secateur.compiler.coverage` with onnx {onnx.__version__}. Every",
        "operator that is compiled passes ONNX's own node tests for it (float32 and integers; see",
        "`tests/onnx_backend.py` for the cases that are not claimed, each with its reason).",
        "",
        f"## Compiled ({len(set(given) & known)} of {len(known)})",
        "",
        "| operator | |",
        "|---|---|",
        *(f"| {name} | {note} |" for name, note in given.items() if name in known),
        "",
        "## Not compiled",
        "",
        ", ".join(missing),
        "",
        "What `Unique` or `NonZero` of an input give has no fixed shape: end the model before",
        "them, and do it on what the engine gives.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), end="")
