"""OpenVINO: at the precision that it chooses, held to float32, and quantised by NNCF."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGES = ("openvino==2026.4.1", "numpy==2.4.6")
PEERS: dict[str, dict[str, Any]] = {
    "openvino": {},  # bfloat16 where the processor has it
    "openvino-f32": {"settings": {"INFERENCE_PRECISION_HINT": "f32"}},
    "openvino-int8": {"quantised": True, "packages": ("nncf==3.4.0",)},
}


def load(
    model: str,
    feeds: dict[str, Any],
    threads: int,
    axes: dict[str, int],
    settings: dict[str, Any],
) -> tuple[Any, Callable[[dict[str, Any]], list[Any]], str]:
    """See the package; `settings` are properties of the compiled model."""
    ov = import_module("openvino")
    network = ov.Core().read_model(model)
    network.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    compiled = ov.Core().compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()

    def call(feeds: dict[str, Any]) -> list[Any]:
        return list(request.infer(feeds, share_inputs=True, share_outputs=True).values())

    return request, call, _precision(compiled)


def quantise(
    model: str, folder: str, batches: Sequence[dict[str, Any]], settings: dict[str, Any]
) -> tuple[list[str], str]:
    """See the package: NNCF's post-training quantisation as it comes.

    Of a transformer NNCF wants to be told; one is known by a softmax whose result is multiplied.
    """
    os.environ["NNCF_CI"] = "1"  # NNCF reports home unless told not to
    ov, nncf = import_module("openvino"), import_module("nncf")
    network = ov.Core().read_model(model)
    attends = any(
        node.get_type_name() == "MatMul"
        for softmax in network.get_ops()
        if softmax.get_type_name() == "Softmax"
        for target in softmax.output(0).get_target_inputs()
        for node in [target.get_node()]
    )
    network = nncf.quantize(
        network,
        nncf.Dataset(batches),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER if attends else None,
    )
    if not any(node.get_type_name() == "FakeQuantize" for node in network.get_ops()):
        raise ValueError("it has no operator that NNCF quantises")
    out = Path(folder) / "int8.xml"
    ov.save_model(network, str(out), compress_to_fp16=False)
    return [str(out), str(out.with_suffix(".bin"))], f"nncf {nncf.__version__}"


def _precision(compiled: Any) -> str:
    """Return what layers with weights compute in, and what the rest may."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    hint = {"undefined": "f32", "dynamic": "f32"}.get(hint, hint)
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    ran = [
        fact["runtimePrecision"].astype(str)
        for fact in facts
        if fact["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
    ]
    return f"int8, rest {hint}" if {"i8", "u8"} & set(ran) else str(hint)
