"""Operators that are expressed by others, against ONNX Runtime, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_harness import normal, theirs
from secateur.compiler import interpreter
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.passes import fold, verify
from secateur.errors import CompileError


def graph_of(
    op: str, arrays: list[np.ndarray | None], known: tuple[int, ...], attributes: dict[str, Any]
) -> Graph:
    """Return what one operator becomes; those of its inputs that are `known` are constants."""
    names = tuple("" if a is None else f"x{k}" for k, a in enumerate(arrays))
    there = {f"x{k}": a for k, a in enumerate(arrays) if a is not None}
    constants = {f"x{k}": there[f"x{k}"] for k in known}
    types = {n: Tensor(a.dtype, a.shape) for n, a in there.items() if n not in constants}
    node = Node(op, "it", names, ("y",), attributes)
    graph = fold.run(Graph((node,), tuple(types), ("y",), constants, types))
    verify.check(graph)
    return graph


def ours(
    op: str, *arrays: np.ndarray | None, known: tuple[int, ...] = (), **attributes: Any
) -> np.ndarray:
    graph = graph_of(op, list(arrays), known, attributes)
    given_arrays = {f"x{k}": a for k, a in enumerate(arrays) if f"x{k}" in graph.inputs}
    return interpreter.run(graph, given_arrays)["y"]  # type: ignore[arg-type]


def agree(
    op: str, *arrays: np.ndarray | None, known: tuple[int, ...] = (), **attributes: Any
) -> np.ndarray:
    """Check that ONNX Runtime gives the same, and return it."""
    found = ours(op, *arrays, known=known, **attributes)
    (wanted,) = theirs(op, *arrays, **attributes)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return found


def refused(
    op: str, *arrays: np.ndarray | None, match: str, known: tuple[int, ...] = (), **attributes: Any
) -> None:
    with pytest.raises(CompileError, match=rf"node {op} 'it' cannot be compiled: .*{match}"):
        graph_of(op, list(arrays), known, attributes)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


class TestGatherND:
    @pytest.mark.parametrize("batch", [0, 1, 2])
    @pytest.mark.parametrize("known", [(), (1,)])
    def test_equals_onnxruntime(self, batch: int, known: tuple[int, ...]) -> None:
        for count in range(1, 4 - batch + 1):
            shape = (2, 3, 4, 5)
            least = min(shape[batch : batch + count])
            rng = np.random.default_rng(count)
            indices = rng.integers(-least, least, (*shape[:batch], 6, count))
            agree("GatherND", normal(1, *shape), indices, known=known, batch_dims=batch)

    def test_refuses(self) -> None:
        x = normal(1, 2, 3)
        refused("GatherND", x, ints([0, 0, 0]), match=r"for 2 axes of \(2, 3\)")
        refused("GatherND", x, ints([[2, 0]]), known=(1,), match=r"outside axes of extents \(2, 3")
        refused("GatherND", x, ints([0]), match=r"batch_dims=1", batch_dims=1)
        refused("GatherND", x[:, :0], ints([[0, 0]]), match=r"which hold nothing")


class TestScatter:
    @pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
    def test_nd_equals_onnxruntime(self, reduction: str) -> None:
        rng = np.random.default_rng(0)
        for count, rest in ((1, (4, 5)), (2, (5,)), (3, ())):
            indices = rng.integers(-3, 3, (2, 7, count))
            if reduction == "none":  # each place once
                indices = np.stack(np.unravel_index(np.arange(3), (3, 4, 5)[:count]), -1)[None]
            updates = normal(2, *indices.shape[:-1], *rest)
            agree("ScatterND", normal(1, 3, 4, 5), indices, updates, reduction=reduction)

    @pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
    @pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
    def test_elements_equal_onnxruntime(self, reduction: str, dtype: Any) -> None:
        rng = np.random.default_rng(0)
        x, updates = (normal(k, *shape) * 9 for k, shape in ((1, (4, 6, 3)), (2, (2, 5, 3))))
        for axis, extent in ((0, 4), (1, 6), (-1, 3)):
            indices = rng.integers(-extent, extent, updates.shape)
            agree(
                "ScatterElements", x.astype(dtype), indices, updates.astype(dtype),
                axis=axis, reduction=reduction,
            )  # fmt: skip

    def test_nan_stays(self) -> None:
        x = np.array([np.nan, 1, 2, np.nan], np.float32)
        updates = np.array([1, np.nan, 3, np.nan], np.float32)
        agree("ScatterElements", x, ints(0, 1, 2, 3), updates)
        agree("ScatterElements", x, ints(0, 1, 2, 3), updates, reduction="add")
        for reduction, third in (("max", 3), ("min", 2)):  # ONNX Runtime loses the first one
            y = ours("ScatterElements", x, ints(0, 1, 2, 3), updates, reduction=reduction)
            np.testing.assert_array_equal(y, [np.nan, np.nan, third, np.nan])

    def test_refuses(self) -> None:
        x = normal(1, 2, 3)
        refused("ScatterND", x, ints([0]), x, match=r"updates of shape \(2, 3\)")
        refused("ScatterND", x, ints([[0, 3]]), x[0, :1], known=(1,), match=r"outside axes")
        refused("ScatterElements", x, ints([0]), x, match=r"updates of \(2, 3\)")
        refused("ScatterElements", x, ints([0, 0]), x[:1], match=r"indices of shape \(1, 2\)")
        with pytest.raises(CompileError, match=r"reduction=mean"):
            ours("ScatterElements", x, ints([0, 1, 1]), x[:1], reduction="mean")


class TestOneHot:
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_equals_onnxruntime(self, axis: int) -> None:
        indices = ints([0, 3, -1], [-4, 9, -9])
        for values in (np.array([0, 1], np.float32), ints(5, -2)):
            found = agree("OneHot", indices, ints(4), values, known=(1,), axis=axis)
            for dtype in (np.int32, np.float32):
                more = ours("OneHot", indices.astype(dtype), ints(4), values, known=(1,), axis=axis)
                np.testing.assert_array_equal(more, found)

    def test_refuses(self) -> None:
        values = np.array([0, 1], np.float32)
        refused("OneHot", ints(1), ints(4), values, match="depth is not constant")
        refused("OneHot", ints(1), ints(4), values[:1], known=(1,), match=r"shape \(1,\)")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_hard_max(axis: int) -> None:
    x = normal(1, 3, 4, 5).round()
    agree("Hardmax", x, axis=axis)


def test_compress() -> None:
    x, condition = normal(1, 3, 4), np.array([True, False, True])
    agree("Compress", x, condition, known=(1,), axis=0)
    agree("Compress", x, condition, known=(1,), axis=-1)
    agree("Compress", x, condition, known=(1,))
    refused("Compress", x, condition, match="how much it keeps depends on input .* cut the model")


def test_eye_like() -> None:
    for k in (-2, 0, 1):
        agree("EyeLike", normal(1, 3, 4), k=k)
    agree("EyeLike", normal(1, 3, 4), dtype=7)


@pytest.mark.parametrize("time", [0, 1])
def test_reverse_sequence(time: int) -> None:
    x, lengths = normal(1, 5, 4, 3), ints(*((1, 5, 3, 2) if time == 0 else (1, 4, 3, 2, 0 + 1)))
    agree("ReverseSequence", x, lengths, time_axis=time, batch_axis=1 - time)


EQUATIONS = [
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("bhqk,bkhd->bqhd", (2, 3, 4, 6), (2, 6, 3, 5)),
    ("i,j->ij", (3,), (4,)),
    ("i,i->", (3,), (3,)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("iij->j", (3, 3, 2)),
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("ba", (3, 4)),
    ("...ij,...jk->...ik", (2, 1, 3, 4), (1, 5, 4, 2)),
    ("...i,i->...", (2, 3, 4), (4,)),
    ("i...->...", (3, 2, 2)),
    ("ij,ij->ij", (3, 4), (3, 4)),
    ("ij,j->ij", (3, 4), (4,)),
    ("nchw,nvc->nvhw", (2, 3, 4, 5), (2, 6, 3)),
    ("abc,cd,de->abe", (2, 3, 4), (4, 5), (5, 2)),
    ("ab,cd,ef->acf", (2, 3), (4, 2), (2, 3)),
    ("btnh,bfnh->bnft", (2, 3, 4, 5), (2, 6, 4, 5)),
    (" b s d , d e -> b s e ", (2, 3, 4), (4, 5)),
]


class TestEinsum:
    @pytest.mark.parametrize("case", EQUATIONS, ids=lambda case: case[0])
    def test_equals_onnxruntime(self, case: Any) -> None:
        equation, *shapes = case
        arrays = [normal(k, *shape) for k, shape in enumerate(shapes)]
        agree("Einsum", *arrays, equation=equation)
        if len(arrays) > 1:
            known = ours("Einsum", *arrays, known=(0,), equation=equation)
            np.testing.assert_allclose(known, ours("Einsum", *arrays, equation=equation), 1e-5)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_equals_numpy(self, data: st.DataObject) -> None:
        letters = "abcde"
        extents = {x: data.draw(st.integers(1, 4)) for x in letters}
        terms = data.draw(
            st.lists(st.text(letters, min_size=0, max_size=4), min_size=1, max_size=3)
        )
        every = sorted({*"".join(terms)})
        wanted = "".join(data.draw(st.permutations(every))[: data.draw(st.integers(0, 4))])
        equation = ",".join(terms) + "->" + wanted
        arrays = [
            normal(k, *(extents[x] for x in term)).astype(np.float64)
            for k, term in enumerate(terms)
        ]
        found = ours("Einsum", *arrays, equation=equation)
        np.testing.assert_allclose(found, np.einsum(equation, *arrays), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        ("equation", "match"),
        [
            ("ij->i", "for 2 inputs"),
            ("ij,jkl->ik", "'jkl' has 2 axes"),
            ("ij,jk->il", "its output's axes"),
            ("ij,jk->ii", "its output's axes"),
            ("ij,ij->ij", "axis 'i' has extents 3 and 4"),
            ("i1,1k->ik", "has 2 axes"),
        ],
    )
    def test_refuses(self, equation: str, match: str) -> None:
        refused("Einsum", normal(1, 3, 4), normal(2, 4, 5), match=match, equation=equation)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int) -> None:
    x = normal(1, 2, 3, 7, 6)
    found = ours("GlobalLpPool", x, p=p)
    np.testing.assert_allclose(found, (np.abs(x) ** p).sum((2, 3), keepdims=True) ** (1 / p), 1e-5)
    agree("LpPool", x, p=p, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    if p < 3:
        x[0, 0] = 0
        agree("LpNormalization", x, p=p, axis=2)


def test_columns_to_images() -> None:
    image, block = ints(6, 7), ints(2, 3)
    for more, windows in (
        ({}, 5 * 5),
        ({"pads": [1, 0, 1, 2], "strides": [2, 1], "dilations": [1, 2]}, 4 * 5),
    ):
        x = normal(1, 2, 3 * 6, windows)
        agree("Col2Im", x, image, block, known=(1, 2), **more)
    refused("Col2Im", normal(1, 2, 17, 25), image, block, known=(1, 2), match="25 windows of 6")


class TestFourier:
    @pytest.mark.parametrize("length", [None, 5, 8, 12])
    @pytest.mark.parametrize("parts", [1, 2])
    def test_equals_numpy(self, length: int | None, parts: int) -> None:
        x = normal(1, 3, 8, 4, parts)
        n = None if length is None else ints(length).reshape(())
        z = x[..., 0] if parts == 1 else x[..., 0] + 1j * x[..., 1]
        for axis in (0, 1, 2):
            for inverse in (0, 1):
                found = ours("DFT", x, n, ints(axis), known=(1, 2)[n is None :], inverse=inverse)
                wanted = (np.fft.ifft if inverse else np.fft.fft)(z, length, axis)
                self._close(found, wanted)
        if parts == 1:
            found = ours("DFT", x, n, ints(1), known=(1, 2)[n is None :], onesided=1)
            self._close(found, np.fft.rfft(z, length, 1))
            return
        found = ours("DFT", x, n, ints(1), known=(1, 2)[n is None :], onesided=1, inverse=1)
        wanted = np.fft.irfft(x[..., 0] + 1j * x[..., 1], length, 1)
        np.testing.assert_allclose(found[..., 0], wanted, atol=1e-5)

    def _close(self, found: np.ndarray, wanted: np.ndarray) -> None:
        np.testing.assert_allclose(found[..., 0] + 1j * found[..., 1], wanted, atol=1e-5)

    @pytest.mark.parametrize("onesided", [0, 1])
    def test_windows_equal_onnxruntime(self, onesided: int) -> None:
        x, window = normal(1, 2, 40, 1), np.hanning(16).astype(np.float32)
        step, length = ints(5).reshape(()), ints(16).reshape(())
        agree("STFT", x, step, window, length, known=(1, 2, 3), onesided=onesided)
        agree("STFT", x, step, None, length, known=(1, 3), onesided=onesided)
        found = ours("STFT", x[..., 0], step, window, length, known=(1, 2, 3), onesided=onesided)
        assert found.shape == (2, 5, 9 if onesided else 16, 2)

    def test_refuses(self) -> None:
        x, step, length = normal(1, 2, 40, 1), ints(5).reshape(()), ints(16).reshape(())
        window = np.hanning(16).astype(np.float32)
        refused("STFT", x, step, window, known=(1,), match="window is not constant")
        refused("STFT", x, step, window[1:], length, known=(1, 2, 3), match=r"window of \(15,\)")
        refused("DFT", x, None, ints(2), known=(2,), match="axis 2 of")
        refused("DFT", x[..., :0], match="must be 1 or 2")
        refused("DFT", np.zeros((1, 9000, 1), np.float32), match="too long for a matrix")


@pytest.mark.parametrize(
    ("op", "arrays", "attributes"),
    [
        ("OneHot", [ints(1), ints(2**31 - 1), np.array([0, 1], np.float32)], {}),
        ("EyeLike", [np.broadcast_to(np.float32(0), (2**31 - 1, 1))], {}),
    ],
)
def test_a_number_of_a_file_takes_no_memory(
    op: str, arrays: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    with pytest.raises(CompileError, match="more than constants may"):
        graph_of(op, arrays, (1,) if op == "OneHot" else (), attributes)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ((2, 3, 8, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((1, 2, 7, 9), {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [2, 0, 1, 1]}),
    ((1, 2, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((1, 2, 6, 5), {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "storage_order": 1}),
    ((1, 2, 4, 5, 6), {"kernel_shape": [2, 3, 2], "strides": [2, 1, 2], "storage_order": 1}),
]


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
def test_where_the_largest_of_a_window_lies(
    shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    x = np.round(normal(0, *shape) * 2)  # with many that are equal
    types = {"x": Tensor(x.dtype, shape)}
    node = Node("MaxPool", "it", ("x",), ("y", "places"), attributes)
    graph = fold.run(Graph((node,), ("x",), ("y", "places"), {}, types))
    verify.check(graph)
    found = interpreter.run(graph, {"x": x})
    for name, wanted in zip(found, theirs("MaxPool", x, outputs=2, **attributes), strict=True):
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize(("kernel", "strides"), [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((2,), (3,))])
def test_windows_are_undone(kernel: tuple[int, ...], strides: tuple[int, ...]) -> None:
    window = {"kernel_shape": kernel, "strides": strides}
    shape = [(n - 1) * s + k for n, s, k in zip((4, 3), strides, kernel, strict=False)]
    # the largest of every window is in no other one's
    x = np.arange(6 * np.prod(shape), dtype=np.float32).reshape(2, 3, *shape)
    most, places = theirs("MaxPool", x, outputs=2, **window)
    for given_shape in (None, ints(2, 3, *shape)):
        known = () if given_shape is None else (2,)
        found = agree("MaxUnpool", most, places, given_shape, known=known, **window)
        assert np.count_nonzero(found) == most.size
    refused("MaxUnpool", most, places[:1], match="indices of shape", **window)
    other = ints(2, 3, *(n + 1 for n in shape))
    refused("MaxUnpool", most, places, other, match="runtimes do not agree", known=(2,), **window)
