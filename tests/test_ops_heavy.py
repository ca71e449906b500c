"""What convolution, pooling, products and normalization mean, and what is fused with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_harness import DIGITS, agree, normal, ours, refused
from secateur.compiler.graph import Node
from secateur.compiler.ops import pooling
from secateur.compiler.ops.fused import ACTIVATIONS


def tensor(array: np.ndarray | None) -> Any:
    return None if array is None else torch.from_numpy(np.array(array))


@st.composite
def windows(draw: st.DrawFn, rank: int) -> dict[str, Any]:
    """Extents, kernel, strides, dilations and symmetric padding that fit together."""
    sides = st.integers
    found: dict[str, list[int]] = {
        "kernel": [draw(sides(1, 3)) for _ in range(rank)],
        "strides": [draw(sides(1, 3)) for _ in range(rank)],
        "dilations": [draw(sides(1, 2)) for _ in range(rank)],
    }
    reach = [(k - 1) * d + 1 for k, d in zip(found["kernel"], found["dilations"], strict=True)]
    found["padding"] = [draw(sides(0, k // 2)) for k in found["kernel"]]
    found["spatial"] = [draw(sides(r, r + 4)) for r in reach]
    return found


RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


class TestConvolution:
    @RANKS
    @settings(max_examples=25)
    @given(data=st.data())
    def test_equals_torch(self, rank: int, data: st.DataObject) -> None:
        form = data.draw(windows(rank))
        group, outs, channels = (data.draw(st.integers(1, 3)) for _ in range(3))
        batch = data.draw(st.integers(1, 2))
        x = normal(1, batch, group * channels, *form["spatial"])
        w = normal(2, group * outs, channels, *form["kernel"])
        b = normal(3, group * outs) if data.draw(st.booleans()) else None
        (y,) = ours(
            "Conv", x, w, b, strides=tuple(form["strides"]), pads=(*form["padding"],) * 2,
            dilations=tuple(form["dilations"]), group=group,
        )  # fmt: skip
        function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        expected = function(
            tensor(x), tensor(w), tensor(b), form["strides"], form["padding"],
            form["dilations"], group,
        )  # fmt: skip
        np.testing.assert_allclose(y, expected.numpy(), **DIGITS)

    @pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
    @pytest.mark.parametrize(("stride", "kernel"), [(1, 4), (2, 3), (3, 2)])
    def test_auto_pad(self, auto_pad: str, stride: int, kernel: int) -> None:
        w = normal(2, 4, 3, kernel, 3)
        agree("Conv", normal(1, 2, 3, 8, 7), w, auto_pad=auto_pad, strides=(stride, 1))

    def test_asymmetric_padding(self) -> None:
        agree("Conv", normal(1, 1, 2, 5, 6), normal(2, 3, 2, 3, 3), pads=(0, 2, 1, 0))

    def test_half_precision_is_kept_and_computed_in_single(self) -> None:
        x, w = normal(1, 1, 64, 5, 5).astype(np.float16), normal(2, 2, 64, 3, 3).astype(np.float16)
        (y,) = ours("Conv", x, w)
        (wide,) = ours("Conv", x.astype(np.float32), w.astype(np.float32))
        np.testing.assert_array_equal(y, wide.astype(np.float16))

    @pytest.mark.parametrize(
        ("attributes", "match"),
        [
            ({"pads": (0, 0, 0)}, r"pads=\(0, 0, 0\) for a kernel of 2 axes"),
            ({"pads": (-1, 0, 0, 0)}, r"pads=\(-1"),
            ({"strides": (0, 1)}, r"strides=\(0, 1\)"),
            ({"auto_pad": "SAME"}, r"auto_pad=SAME"),
            ({"auto_pad": "SAME_UPPER", "pads": (1, 1, 1, 1)}, r"both pads and auto_pad"),
            ({"dilations": (9, 9)}, r"a window of 19 does not fit axis 2, 5 long"),
            ({"group": 2}, r"in 2 groups"),
            ({"kernel_shape": (2, 2)}, r"kernel_shape=\(2, 2\)"),
            ({"pads": (10**9, 10**9, 10**9, 10**9)}, r"elements a channel with padding"),
            ({"shape": (1,)}, r"attribute shape is not supported"),
        ],
    )
    def test_refuses(self, attributes: dict[str, Any], match: str) -> None:
        refused("Conv", normal(1, 1, 3, 5, 5), normal(2, 4, 3, 3, 3), match=match, **attributes)

    def test_refuses_dtypes_and_axes(self) -> None:
        x, w = normal(1, 1, 3, 5), normal(2, 4, 3, 3)
        refused("Conv", x, w.astype(np.float64), match=r"mix float32 and float64")
        refused("Conv", x.astype(np.int32), w, match=r"X is int32")
        refused("Conv", normal(1, 1, 1, *(2,) * 4), normal(1, 1, 1, *(1,) * 4), match=r"a kernel")


class TestTransposedConvolution:
    @RANKS
    @settings(max_examples=25)
    @given(data=st.data())
    def test_equals_torch(self, rank: int, data: st.DataObject) -> None:
        form = data.draw(windows(rank))
        group, outs, channels = (data.draw(st.integers(1, 3)) for _ in range(3))
        limits = zip(form["strides"], form["dilations"], strict=True)
        extra = tuple(data.draw(st.integers(0, max(pair) - 1)) for pair in limits)
        x = normal(1, 2, group * channels, *form["spatial"])
        w = normal(2, group * channels, outs, *form["kernel"])
        b = normal(3, group * outs) if data.draw(st.booleans()) else None
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        attributes = {
            "strides": tuple(form["strides"]), "pads": (*form["padding"],) * 2,
            "dilations": tuple(form["dilations"]), "group": group, "output_padding": extra,
        }  # fmt: skip
        try:
            expected = function(
                tensor(x), tensor(w), tensor(b), form["strides"], form["padding"], extra, group,
                form["dilations"],
            ).numpy()  # fmt: skip
        except RuntimeError:  # nothing is left after the padding is cut off
            refused("ConvTranspose", x, w, b, match=r"nothing is left", **attributes)
            return
        (y,) = ours("ConvTranspose", x, w, b, **attributes)
        np.testing.assert_allclose(y, expected, **DIGITS)

    @pytest.mark.parametrize(
        "attributes",
        [
            {"auto_pad": "SAME_UPPER", "strides": (2, 3)},
            {"auto_pad": "SAME_LOWER", "strides": (2, 3)},
            {"output_shape": (9, 14), "strides": (2, 3)},
            {"output_shape": (8, 13), "strides": (2, 3), "auto_pad": "SAME_UPPER"},
            {"output_shape": (10, 15), "strides": (2, 3), "output_padding": (1, 1)},
            {"pads": (1, 0, 0, 1), "strides": (2, 3), "dilations": (2, 1)},
        ],
    )
    def test_sizes(self, attributes: dict[str, Any]) -> None:
        agree("ConvTranspose", normal(1, 1, 4, 4, 5), normal(2, 4, 2, 3, 3), **attributes)

    def test_refuses(self) -> None:
        x, w = normal(1, 1, 4, 4, 5), normal(2, 4, 2, 3, 3)
        refused("ConvTranspose", x, w, match=r"output_shape=\(1,\)", output_shape=(1,))
        refused("ConvTranspose", x, w, match=r"nothing is left of axis 2", pads=(3, 0, 3, 0))
        refused("ConvTranspose", x, w, normal(3, 3), match=r"bias \(3,\)")


class TestPooling:
    @RANKS
    @pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
    @settings(max_examples=20)
    @given(data=st.data())
    def test_equals_onnxruntime(self, op: str, rank: int, data: st.DataObject) -> None:
        form = data.draw(windows(rank))
        attributes: dict[str, Any] = {
            "kernel_shape": form["kernel"], "strides": form["strides"],
            "dilations": form["dilations"], "ceil_mode": data.draw(st.integers(0, 1)),
            "pads": [data.draw(st.integers(0, k - 1)) for k in form["kernel"] * 2],
        }  # fmt: skip
        if op == "AveragePool":
            attributes["count_include_pad"] = data.draw(st.integers(0, 1))
        agree(op, normal(1, 2, 3, *form["spatial"]), **attributes)

    @pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
    @pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
    def test_auto_pad(self, op: str, auto_pad: str) -> None:
        x = normal(1, 1, 2, 9, 8)
        agree(op, x, kernel_shape=[3, 2], strides=[2, 2], auto_pad=auto_pad)
        agree(op, x, kernel_shape=[3, 3], strides=[4, 3], auto_pad=auto_pad)

    def test_max_of_bytes_and_of_nan(self) -> None:
        x = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)
        (y,) = ours("MaxPool", x, kernel_shape=(2, 2), pads=(1, 1, 0, 0), strides=(2, 2))
        np.testing.assert_array_equal(y[0, 0], [[-8, -6], [0, 2]])
        assert np.isnan(ours("MaxPool", np.full((1, 1, 2), np.nan), kernel_shape=(2,))[0]).all()

    def test_divisors_are_what_kernels_divide_by(self) -> None:
        node = Node("AveragePool", "p", ("x",), ("y",), {"kernel_shape": (3,), "pads": (1, 1)})
        form = pooling.pool_window(node, (4,))
        np.testing.assert_array_equal(pooling.pool_divisors(node, form, (4,)), [2, 3, 3, 2])

    def test_global(self) -> None:
        for shape in ((2, 3, 7), (2, 3, 4, 5), (1, 2, 3, 4, 2)):
            agree("GlobalAveragePool", normal(1, *shape))
            agree("GlobalMaxPool", normal(1, *shape))
        refused("GlobalMaxPool", normal(1, 2, 3), match=r"needs a spatial axis")

    def test_refuses(self) -> None:
        x = normal(1, 1, 2, 4)
        refused("MaxPool", x, match=r"output Indices", kernel_shape=(2,), outputs=2)
        refused("MaxPool", x, match=r"kernel_shape=\(2, 2\)", kernel_shape=(2, 2))
        refused("MaxPool", x, match=r"wholly in the padding", kernel_shape=(2,), pads=(2, 0))
        refused(
            "MaxPool", x, match=r"auto_pad=VALID with ceil_mode", kernel_shape=(2,), ceil_mode=1,
            auto_pad="VALID",
        )  # fmt: skip


class TestProducts:
    @pytest.mark.parametrize(
        ("left", "right"),
        [
            ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)),
            ((2, 3), (5, 3, 4)), ((5, 1, 2, 3), (6, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)),
        ],
    )  # fmt: skip
    def test_matmul(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        agree("MatMul", normal(1, *left), normal(2, *right))

    def test_matmul_of_integers_stays_whole(self) -> None:
        a = np.array([[2**31, 1]], np.int64)
        np.testing.assert_array_equal(ours("MatMul", a, a.T)[0], [[2**62 + 1]])

    def test_matmul_refuses(self) -> None:
        refused("MatMul", normal(1, 2, 3), normal(2, 2, 3), match=r"do not fit")
        refused("MatMul", normal(1), normal(2, 2, 3), match=r"do not fit")
        refused("MatMul", normal(1, 2, 2, 3), normal(2, 3, 3, 2), match=r"do not fit")
        refused("MatMul", normal(1, 2, 3), normal(2, 3).astype(np.float64), match=r"mix")

    @pytest.mark.parametrize("trans_a", [0, 1])
    @pytest.mark.parametrize("trans_b", [0, 1])
    @pytest.mark.parametrize("c", [None, (), (1,), (4,), (2, 1), (1, 4), (2, 4)])
    def test_gemm(self, trans_a: int, trans_b: int, c: tuple[int, ...] | None) -> None:
        a, b = (
            normal(1, *((3, 2) if trans_a else (2, 3))),
            normal(2, *((4, 3), (3, 4))[not trans_b]),
        )
        agree(
            "Gemm", a, b, None if c is None else np.asarray(normal(3, *c)), alpha=0.5, beta=1.5,
            transA=trans_a, transB=trans_b,
        )  # fmt: skip

    def test_gemm_refuses(self) -> None:
        a, b = normal(1, 2, 3), normal(2, 3, 4)
        refused("Gemm", a, b, normal(3, 3, 2, 4), match=r"C of shape")
        refused("Gemm", a, b, transB=1, match=r"do not fit")


class TestNormalization:
    @pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 3)])
    def test_batch(self, shape: tuple[int, ...]) -> None:
        scale, bias, mean, variance = (normal(i, 3) for i in range(4))
        agree("BatchNormalization", normal(9, *shape), scale, bias, mean, variance**2, epsilon=0.01)

    def test_batch_refuses_training(self) -> None:
        x, v = normal(1, 2, 3, 4), np.ones(3, np.float32)
        refused("BatchNormalization", x, v, v, v, v, match=r"training_mode=1", training_mode=1)
        refused("BatchNormalization", x, v, v, v, v, match=r"running statistics", outputs=3)
        refused("BatchNormalization", x, v, v, v, normal(1, 2), match=r"input_var of shape \(2,\)")

    @pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 3, 5)])
    def test_instance_and_group(self, shape: tuple[int, ...]) -> None:
        x, scale, bias = 3 + normal(1, *shape), normal(2, 4), normal(3, 4)
        agree("InstanceNormalization", x, scale, bias, epsilon=0.01)
        (y,) = ours("GroupNormalization", x, scale, bias, num_groups=2, epsilon=0.01)
        expected = F.group_norm(tensor(x), 2, tensor(scale), tensor(bias), 0.01)
        np.testing.assert_allclose(y, expected.numpy(), **DIGITS)
        refused("GroupNormalization", x, scale, bias, num_groups=3, match=r"3 groups of 4")

    @pytest.mark.parametrize("axis", [-1, 1, 0])
    @pytest.mark.parametrize("biased", [True, False])
    def test_layer(self, axis: int, biased: bool) -> None:
        x = 5 + normal(1, 2, 3, 4)
        scale = normal(2, *x.shape[axis:])
        bias = normal(3, *x.shape[axis:]) if biased else None
        agree("LayerNormalization", x, scale, bias, axis=axis, epsilon=1e-3, outputs=3)

    def test_layer_refuses(self) -> None:
        x, scale = normal(1, 2, 3, 4), normal(2, 4)
        refused("LayerNormalization", x, scale, axis=3, match=r"axis 3")
        refused("LayerNormalization", x, scale, stash_type=11, match=r"stash_type=11")
        refused("LayerNormalization", x, normal(2, 5), match=r"do not fit")
        refused("LayerNormalization", x, normal(2, 6, 2, 3, 4), match=r"a scale or B")

    def test_rms(self) -> None:
        x, scale = normal(1, 2, 3, 4), normal(2, 4)
        (y,) = ours("RMSNormalization", x, scale, epsilon=1e-3)
        expected = F.rms_norm(tensor(x), (4,), tensor(scale), 1e-3)
        np.testing.assert_allclose(y, expected.numpy(), **DIGITS)

    @pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
    @pytest.mark.parametrize("axis", [-1, 0, 1])
    def test_softmax(self, op: str, axis: int) -> None:
        agree(op, 100 * normal(1, 2, 3, 4), axis=axis)
        refused(op, normal(1, 2), axis=1, match=r"axis 1")


TORCH = {
    "": lambda x: x, "Relu": F.relu, "LeakyRelu": lambda x: F.leaky_relu(x, 0.3),
    "Clip": lambda x: x.clamp(0.3, 0.7), "Sigmoid": torch.sigmoid,
    "HardSigmoid": lambda x: (0.3 * x + 0.7).clamp(0, 1), "HardSwish": F.hardswish,
    "Tanh": torch.tanh, "Gelu": F.gelu, "GeluTanh": lambda x: F.gelu(x, approximate="tanh"),
    "Silu": F.silu, "Elu": lambda x: F.elu(x, 0.3), "Softplus": F.softplus,
}  # fmt: skip


class TestFused:
    @pytest.mark.parametrize("activation", list(ACTIVATIONS))
    def test_activation(self, activation: str) -> None:
        x = np.linspace(-12, 12, 501, dtype=np.float32)
        (y,) = ours("Activation", x, activation=activation, alpha=0.3, beta=0.7)
        np.testing.assert_allclose(y, TORCH[activation](tensor(x)).numpy(), rtol=1e-4, atol=2e-6)

    @pytest.mark.parametrize("biased", [False, True])
    @pytest.mark.parametrize("residual", [False, True])
    def test_convolution(self, biased: bool, residual: bool) -> None:
        x, w, r = normal(1, 2, 4, 6, 5), normal(2, 6, 2, 3, 3), normal(3, 2, 6, 3, 5)
        b = normal(4, 6) if biased else None
        (y,) = ours(
            "FusedConv", x, w, b, r if residual else None, pads=(1, 1, 1, 1), strides=(2, 1),
            dilations=(1, 1), group=2, activation="LeakyRelu", alpha=0.1, beta=0.0,
        )  # fmt: skip
        expected = F.conv2d(tensor(x), tensor(w), tensor(b), (2, 1), 1, 1, 2)
        expected = F.leaky_relu(expected + tensor(r) if residual else expected, 0.1)
        np.testing.assert_allclose(y, expected.numpy(), **DIGITS)

    def test_linear(self) -> None:
        x, w, b, r = normal(1, 2, 3, 4), normal(2, 5, 4), normal(3, 5), normal(4, 2, 3, 5)
        (y,) = ours("FusedLinear", x, w, b, r, activation="Relu", alpha=0.0, beta=0.0)
        expected = F.relu(F.linear(tensor(x), tensor(w), tensor(b)) + tensor(r))
        np.testing.assert_allclose(y, expected.numpy(), **DIGITS)

    def test_refuses(self) -> None:
        x, w = normal(1, 2, 3, 4), normal(2, 5, 4)
        refused("FusedLinear", x, w, None, normal(3, 5), match=r"a residual")
        refused("FusedLinear", x, w.T, match=r"weight \(4, 5\)")
        refused("Activation", x, activation="Mish", match=r"activation=Mish")
        refused("FusedConv", x, normal(2, 5, 3, 1), match=r"pads=None")
