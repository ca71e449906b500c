"""Compiled pools, products and transposed convolutions.

Networks of many operators are compiled at once, for one sample and for many, and compared with the
numpy references. Samples in the lanes, planes and tokens cut over them: inputs come through layers
that cut them so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import kernel_harness
from kernel_nets import F32, FEW, MACHINES, Build, Net, check, programs, refused, several
from secateur.compiler import interpreter, ops, pipeline, toolchain
from secateur.compiler.graph import Node
from secateur.compiler.kernels import Machine
from secateur.compiler.ops import Operand
from secateur.compiler.runtime import Engine
from secateur.errors import CompileError


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A plane of one to three axes, and the attributes of a window over it."""
    rank = draw(st.integers(1, 3))
    side = st.integers
    kernel = tuple(draw(side(1, 4)) for _ in range(rank))
    dilations = tuple(draw(side(1, 2)) for _ in range(rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    plane = tuple(draw(side(r, r + (14 if rank < 3 else 5))) for r in reach)
    strides = tuple(draw(side(1, 3)) for _ in range(rank))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel, "strides": strides, "dilations": dilations,
    }  # fmt: skip
    padding = draw(st.sampled_from(["none", "explicit", "SAME_UPPER", "SAME_LOWER"]))
    if padding == "explicit":
        attributes["pads"] = tuple(draw(side(0, (k - 1) // 2)) for _ in range(2) for k in kernel)
    elif padding != "none":
        attributes["auto_pad"] = padding
    return plane, attributes


@st.composite
def pools(draw: st.DrawFn) -> Build:
    plane, attributes = draw(windows())
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    channels, cut = draw(st.integers(1, 3)), draw(st.booleans())
    x = Operand(F32, (1, channels, *plane))
    node = Node(op, "drawn", ("x",), ("y",), attributes)
    try:
        ops.find(node).infer(node, (x,))
    except CompileError:  # a window that sees padding only
        assume(False)

    def build(net: Net) -> None:
        source = net.plane if cut else net.input
        net.keep(net.add(op, source(channels, *plane), **attributes))

    return build


class TestPools:
    @FEW
    @given(several(pools(), 12), MACHINES)
    def test_equal_their_reference(self, build: Build, machine: Machine | None) -> None:
        check(build, machine)

    def test_of_the_whole_plane_take_it_as_it_is_cut(self) -> None:
        def build(net: Net) -> None:
            for plane in ((8, 8), (7, 7), (3,), (1, 1), (3, 4, 5)):
                for source in (net.input, net.plane):
                    for op in ("GlobalMaxPool", "GlobalAveragePool"):
                        net.keep(net.add(op, source(5, *plane)))
                    for op in ("MaxPool", "AveragePool"):
                        net.keep(net.add(op, source(5, *plane), kernel_shape=plane))
            for op in ("GlobalMaxPool", "GlobalAveragePool"):
                net.keep(net.add(op, net.input(2, 5, dtype="float64")))

        check(build, tiles=4)

    def test_of_other_types(self) -> None:
        window = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}

        def build(net: Net) -> None:
            for dtype in ("int8", "uint8", "int32", "int64", "float64"):
                net.keep(net.add("MaxPool", net.input(2, 7, 6, dtype=dtype), **window))
            net.keep(net.add("AveragePool", net.input(2, 7, 6, dtype="float64"), **window))

        check(build)

    def test_what_is_not_a_number_stays_so(self) -> None:
        def build(net: Net) -> None:
            # 0 / 0 where the ramp crosses zero, and an infinity on either side
            ramp = net.constant(np.arange(-32, 32, dtype=F32).reshape(1, 1, 8, 8) // 8)
            zero = net.add("Sub", net.input(1, 8, 8), net.input(1, 8, 8))
            x = net.add("Mul", net.add("Add", zero, ramp), net.constant(np.array(np.inf, F32)))
            net.keep(x)
            for pads in ((0, 0, 0, 0), (1, 1, 1, 1)):
                for op in ("MaxPool", "AveragePool"):
                    net.keep(net.add(op, x, kernel_shape=(3, 3), strides=(2, 2), pads=pads))
            net.keep(net.add("GlobalMaxPool", x))

        network, arrays = programs(build, kernel_harness.machine(), 1)
        arrays = dict.fromkeys(arrays, np.abs(next(iter(arrays.values()))))
        content = pipeline.built(pipeline.source_of(network, "tested"), toolchain.native())
        with Engine(content, 1) as engine:
            for graph in network.graphs:
                few = {k: a[: graph.types[k].shape[0]] for k, a in arrays.items()}
                wanted = interpreter.run(graph, few)
                assert np.isnan(wanted[graph.outputs[0]]).any()
                for name, got in zip(graph.outputs, engine(few), strict=True):
                    np.testing.assert_array_equal(got, wanted[name], err_msg=name)


@st.composite
def products(draw: st.DrawFn) -> Build:
    """A product of two values that come as they are."""
    rows, depth, columns = (draw(st.integers(1, 40)) for _ in range(3))
    batch = draw(st.sampled_from([(), (3,), (2, 3)]))
    a, b = (tuple(n if draw(st.booleans()) else 1 for n in batch) for _ in range(2))
    kind = draw(st.sampled_from(["both", "weights", "flipped weights", "vector"]))
    dtype = draw(st.sampled_from(["float32"] * 3 + ["float64", "int32"]))

    def build(net: Net) -> None:
        if kind == "both":
            x, y = (*a, rows, depth), (*b, depth, columns)
            net.keep(net.add("MatMul", net.input(*x, dtype=dtype), net.input(*y, dtype=dtype)))
        elif kind == "weights":
            weights = net.normal(*b, depth, columns, dtype=dtype)
            net.keep(net.add("MatMul", net.input(*a, rows, depth, dtype=dtype), weights))
        elif kind == "flipped weights":
            weights = net.normal(*a, rows, depth, dtype=dtype)
            net.keep(net.add("MatMul", weights, net.input(*b, depth, columns, dtype=dtype)))
        else:
            weights = net.normal(depth, dtype=dtype)
            net.keep(net.add("MatMul", net.input(*a, rows, depth, dtype=dtype), weights))

    return build


@st.composite
def attentions(draw: st.DrawFn) -> Build:
    """Heads of queries, keys and values of different lengths, and all that may come of a cut."""
    heads, size = draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 20]))
    queries, keys = draw(st.integers(1, 70)), draw(st.integers(1, 70))

    def build(net: Net) -> None:
        width = heads * size
        x, z = net.input(queries, width), net.input(keys, width)
        q, k, v = (
            net.add(
                "Transpose",
                net.reshape(net.linear(value, width), net.samples, -1, heads, size),
                perm=perm,
            )
            for value, perm in ((x, (0, 2, 1, 3)), (z, (0, 2, 3, 1)), (z, (0, 2, 1, 3)))
        )
        scores = net.add("MatMul", q, k)
        values = net.add("MatMul", scores, v)
        joined = net.reshape(
            net.add("Transpose", values, perm=(0, 2, 1, 3)), net.samples, queries, width
        )
        net.keep(scores, values, net.linear(joined, 3))
        net.keep(net.add("MatMul", net.input(heads, 7, size), k))  # columns are cut
        net.keep(net.add("MatMul", k, v))  # so is what is summed over
        net.keep(net.add("MatMul", q, net.normal(size, 9)))
        net.keep(net.add("MatMul", q, net.input(heads, size, 5)))

    return build


class TestProducts:
    @FEW
    @given(several(products(), 8), MACHINES)
    def test_equal_their_reference(self, build: Build, machine: Machine | None) -> None:
        check(build, machine, tiles=2)

    @FEW
    @given(several(attentions(), 2), MACHINES)
    def test_of_cut_values_equal_their_reference(
        self, build: Build, machine: Machine | None
    ) -> None:
        check(build, machine)

    def test_join_heads_without_a_copy(self) -> None:
        def build(net: Net) -> None:
            x = net.input(65, 192)
            q, k, v = (
                net.add(
                    "Transpose",
                    net.reshape(net.linear(x, 192), net.samples, 65, 3, 64),
                    perm=perm,
                )
                for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
            )
            y = net.add("MatMul", net.add("MatMul", q, k), v)
            y = net.reshape(net.add("Transpose", y, perm=(0, 2, 1, 3)), net.samples, 65, 192)
            net.keep(net.linear(y, 192))

        network, _ = programs(build, Machine(16, 32), 1)
        steps = ["Relayout", *["FusedLinear"] * 3, *["MatMul"] * 2, "FusedLinear", "Relayout"]
        for program in network.programs:
            assert [step.node.op for step in program.steps] == steps

    def test_of_samples_times_heads(self) -> None:
        """As PyTorch exports attention: tokens first, heads joined to the samples."""

        def build(net: Net) -> None:
            x, heads = net.input(12, 16), 4 * net.samples
            q, k = (
                net.add(
                    "Transpose",
                    net.reshape(
                        net.add("Transpose", net.linear(x, 16), perm=(1, 0, 2)), 12, heads, 4
                    ),
                    perm=perm,
                )
                for perm in ((1, 0, 2), (1, 2, 0))
            )
            net.keep(net.reshape(net.add("MatMul", q, k), net.samples, 4, 12, 12))

        check(build)

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
    def test_gemm_of_two_inputs(self, dtype: str) -> None:
        def build(net: Net) -> None:
            for (m, k, n), c in [
                ((5, 7, 3), None), ((17, 20, 40), (17, 40)), ((1, 9, 33), (33,)),
                ((6, 5, 18), (6, 1)), ((6, 5, 18), (1,)), ((2, 3, 4), ()),
            ]:  # fmt: skip
                for a_first, b_first in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    shapes = [(k, m) if a_first else (m, k), (n, k) if b_first else (k, n)]
                    shapes += [] if c is None else [c]
                    factors = {} if c is None or dtype == "int32" else {"alpha": 0.5, "beta": -2.0}
                    inputs = (net.input(*shape, dtype=dtype, fixed=True) for shape in shapes)
                    net.keep(net.add("Gemm", *inputs, transA=a_first, transB=b_first, **factors))

        check(build, tiles=None)

    def test_without_elements(self) -> None:
        def build(net: Net) -> None:
            for a, b in (((2, 3, 0), (2, 0, 4)), ((4,), (4,)), ((4,), (3, 4, 2)), ((2, 4), (4,))):
                net.keep(net.add("MatMul", *(net.input(*s, fixed=True) for s in (a, b))))

        check(build, tiles=None)


@st.composite
def transposed(draw: st.DrawFn) -> Build:
    plane, window = draw(windows())
    group, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(["float32"] * 4 + ["float64"]))
    channels, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    density, bias = draw(st.sampled_from([0.0, 0.3, 1.0])), draw(st.booleans())
    cut = draw(st.booleans()) and dtype == "float32"
    plane = tuple(min(n, 7) for n in plane)
    if draw(st.booleans()):
        window["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in window["strides"])
    if draw(st.integers(0, 3)) == 0:
        window["strides"] = (5,) * len(plane)  # more phases than are written one by one
        window.pop("output_padding", None)
    shape = (group * channels, outputs, *window["kernel_shape"])

    def build(net: Net) -> None:
        source = net.plane(group * channels, *plane) if cut else None
        x = source or net.input(group * channels, *plane, dtype=dtype)
        kept = net.rng.random(shape) < density
        w = net.constant((net.rng.standard_normal(shape) * kept).astype(dtype))
        b = [net.normal(group * outputs, dtype=dtype)] if bias else []
        net.keep(net.add("ConvTranspose", x, w, *b, group=group, **window))

    node = Node("ConvTranspose", "drawn", ("x", "w"), ("y",), {**window, "group": group})
    given_operands = (Operand(F32, (1, group * channels, *plane)), Operand(F32, shape))
    try:
        ops.find(node).infer(node, given_operands)
    except CompileError:  # nothing is left after the padding is cut off
        assume(False)
    return build


class TestTransposedConvolutions:
    @FEW
    @given(several(transposed(), 8), MACHINES)
    def test_equal_their_reference(self, build: Build, machine: Machine | None) -> None:
        check(build, machine)

    def test_double_a_plane_without_moving_it_between_lanes(self) -> None:
        def build(net: Net) -> None:
            x = net.plane(4, 16, 16)
            for _ in range(2):
                x = net.add(
                    "ConvTranspose", x, net.normal(4, 4, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1)
                )
            net.keep(x)

        network, _ = programs(build, Machine(16, 32), 1)
        steps = [step.node.op for step in network.programs[0].steps if step.node.op != "Fill"]
        assert steps == ["Relayout", "FusedConv", "ConvTranspose", "ConvTranspose", "Relayout"]


class TestRefused:
    @pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
    def test_weights_that_are_not_constant(self, op: str) -> None:
        def build(net: Net) -> None:
            x, w = net.input(2, 5, 5), net.input(2, 3, 3, 3, fixed=True)
            if op == "Conv":
                w = net.input(2, 2, 3, 3, fixed=True)
            net.keep(net.add(op, x, w))

        refused(build, rf"{op} 'n0' cannot be compiled: .* not constant")

    def test_convolutions_of_another_type(self) -> None:
        def build(net: Net) -> None:
            x = net.input(2, 5, 5, dtype="float64")
            net.keep(net.add("Conv", x, net.normal(2, 2, 3, 3, dtype="float64")))

        refused(build, r"Conv 'n0' cannot be compiled: .* float64")
