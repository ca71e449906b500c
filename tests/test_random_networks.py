"""Whatever network is drawn, the engine agrees with ONNX Runtime, for any batch and any threads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from secateur.compiler import pipeline

ort = pytest.importorskip("onnxruntime")

SPARSITIES = (0.0, 0.5, 0.9, 0.97, 1.0)


class Network:
    """An ONNX model that grows layer by layer from what Hypothesis draws."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = draw(st.integers(1, 20))
        self.size = (draw(st.integers(3, 18)), draw(st.integers(3, 18)))
        self.input = (self.channels, *self.size)
        self.value = "x"
        self.earlier: list[tuple[str, int, tuple[int, int]]] = []

    def weight(self, *shape: int) -> str:
        w = self.rng.standard_normal(shape).astype(np.float32) / float(np.sqrt(np.prod(shape[1:])))
        w *= self.rng.random(shape) >= self.draw(st.sampled_from(SPARSITIES))
        if len(shape) > 1 and self.draw(st.booleans()):
            w[self.rng.integers(shape[0])] = 0  # an output that hears nothing
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(w, name))
        return name

    def node(self, op: str, *others: str, **attributes: object) -> None:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.value, *others], [out], **attributes))
        self.value = out

    def conv(self) -> None:
        groups = self.draw(st.sampled_from([g for g in (1, 1, 2, 3) if self.channels % g == 0]))
        depthwise = self.draw(st.booleans()) and self.channels > 1
        groups = self.channels if depthwise else groups
        outputs = groups * self.draw(st.integers(1, 2 if depthwise else 40 // groups))
        kernel, stride, dilation, pads = [], [], [], []
        for extent in self.size:
            k = self.draw(st.integers(1, min(5, extent)))
            d = self.draw(st.integers(1, 2)) if (k - 1) * 2 < extent else 1
            pad = self.draw(st.integers(0, k // 2)), self.draw(st.integers(0, k // 2))
            kernel.append(k)
            dilation.append(d)
            stride.append(self.draw(st.integers(1, 2)))
            pads.append(pad)
        self.node(
            "Conv",
            self.weight(outputs, self.channels // groups, *kernel),
            *([self.weight(outputs)] if self.draw(st.booleans()) else []),
            kernel_shape=kernel,
            strides=stride,
            dilations=dilation,
            group=groups,
            pads=[p[0] for p in pads] + [p[1] for p in pads],
        )
        self.channels = outputs
        self.size = tuple(  # type: ignore[assignment]
            (n + p[0] + p[1] - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(self.size, pads, dilation, kernel, stride, strict=True)
        )

    def pool(self) -> None:
        if min(self.size) < 2:
            return
        self.node(
            self.draw(st.sampled_from(["MaxPool", "AveragePool"])),
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
        self.size = (self.size[0] // 2, self.size[1] // 2)

    def activation(self) -> None:
        self.node(self.draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish"])))

    def normalization(self) -> None:
        names = [self.weight(self.channels) for _ in range(3)]
        variance = numpy_helper.from_array(
            self.rng.random(self.channels).astype(np.float32) + 0.5, f"w{len(self.weights)}"
        )
        self.weights.append(variance)
        self.node("BatchNormalization", *names, variance.name)

    def residual(self) -> None:
        like = [v for v, c, s in self.earlier if (c, s) == (self.channels, self.size)]
        if like:
            self.node("Add", self.draw(st.sampled_from(like)))

    def finish(self) -> onnx.ModelProto:
        last = self.draw(st.sampled_from(["none", "pool", "flatten"]))
        shape: tuple[int, ...] = (self.channels, *self.size)
        if last == "pool":
            self.node("GlobalAveragePool")
        if last != "none":
            self.node("Flatten")
            features = self.channels if last == "pool" else int(np.prod(shape))
            outputs = self.draw(st.integers(1, 40))
            self.node("Gemm", self.weight(outputs, features), self.weight(outputs), transB=1)
            shape = (outputs,)
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *self.input])],
            [helper.make_tensor_value_info(self.value, TensorProto.FLOAT, ["n", *shape])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        return model


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    network = Network(draw)
    network.conv()
    for _ in range(draw(st.integers(1, 5))):
        network.earlier.append((network.value, network.channels, network.size))
        step = draw(
            st.sampled_from(["conv", "conv", "pool", "activation", "normalization", "residual"])
        )
        getattr(network, step)()
    return network.finish()


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(networks(), st.integers(1, 40))
def test_engines_agree_with_onnx_runtime(model: onnx.ModelProto, batch: int) -> None:
    content = model.SerializeToString()
    x = (
        np.random.default_rng(0)
        .standard_normal(
            (batch, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))
        )
        .astype(np.float32)
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    (wanted,) = ort.InferenceSession(content, options).run(None, {"x": x})
    compiled = pipeline.compile_network(content)
    results = []
    for threads in (1, 3):
        with compiled.engine(threads) as engine:
            results.append(engine(x))
    scale = np.abs(wanted).max(initial=1e-3)
    assert np.abs(results[0] - wanted).max(initial=0) <= 1e-4 * scale
    np.testing.assert_array_equal(results[0], results[1])
