"""Compiled recurrent layers against the numpy references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_models as om
from kernel_nets import FEW, MACHINES, Build, Net, as_tuple, check, refused, several
from secateur.compiler.kernels import Machine
from secateur.compiler.ops import recurrent
from secateur.compiler.pipeline import compile_network


@st.composite
def recurrents(draw: st.DrawFn) -> Build:
    op = draw(st.sampled_from(["RNN", "GRU", "LSTM"]))
    steps, inputs, hidden = (draw(st.integers(1, n)) for n in (10, 9, 90))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    ways = 2 if direction == "bidirectional" else 1
    first, bias, initial = (draw(st.booleans()) for _ in range(3))
    peepholes = op == "LSTM" and draw(st.booleans())
    short = draw(st.booleans())
    kept = draw(st.sampled_from([1.0, 0.4, 0.1, 0.0]))  # of weights; the rest are zeros
    gates = recurrent.FAMILIES[op].gates
    states = 2 if op == "LSTM" else 1
    wanted = draw(st.lists(st.booleans(), min_size=1 + states, max_size=1 + states).filter(any))
    attributes: dict[str, Any] = {"direction": direction, "layout": int(first)}
    attributes |= {"hidden_size": hidden, "clip": draw(st.sampled_from([0.0, 0.5]))}
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))

    def build(net: Net) -> None:
        def given_as(x: str, perm: tuple[int, ...]) -> str:
            return x if first else str(net.add("Transpose", x, perm=perm))

        names = [given_as(net.input(steps, inputs), (1, 0, 2))]
        for n in (inputs, hidden):
            weight = n**-0.5 * net.rng.standard_normal((ways, gates * hidden, n))
            weight[net.rng.random(weight.shape) >= kept] = 0
            names.append(net.constant(weight.astype(np.float32)))
        names += [net.normal(ways, 2 * gates * hidden) if bias else ""]
        lengths = net.input(dtype=np.int32) if short else ""
        most = net.constant(np.array(steps + 1, np.int32)) if short else ""
        names.append(str(net.add("Mod", lengths, most)) if short else "")
        for _ in range(2 if op == "LSTM" else 1):
            names.append(given_as(net.input(ways, hidden), (1, 0, 2)) if initial else "")
        if peepholes:
            names.append(net.normal(ways, 3 * hidden))
        y, *last = net.add(op, *names, wanted=wanted, **attributes)
        net.keep(*(given_as(v, perm) for v, perm in [(y, (2, 0, 1, 3))] if v))
        net.keep(*(given_as(v, (1, 0, 2)) for v in last if v))

    return build


class TestRecurrentLayers:
    @FEW
    @given(several(recurrents(), 6), MACHINES)
    def test_equal_their_reference(self, build: Build, machine: Machine | None) -> None:
        check(build, machine, tiles=2)

    def test_of_a_fixed_batch(self) -> None:
        def build(net: Net) -> None:
            for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
                x = net.input(4, 3, 6, fixed=True)
                w, r = (net.normal(1, gates * 9, n) for n in (6, 9))
                net.keep(*net.add(op, x, w, r, wanted=(True, True)))

        check(build, tiles=None)


@pytest.mark.parametrize("missing", ["W", "R"])
def test_recurrent_weights_that_are_not_constant(missing: str) -> None:
    def build(net: Net) -> None:
        names = [
            net.input(1, 4, n, fixed=True) if name == missing else net.normal(1, 4, n)
            for name, n in (("W", 6), ("R", 4))
        ]
        x = net.add("Transpose", net.input(3, 6), perm=(1, 0, 2))
        net.keep(*net.add("RNN", x, *names, wanted=(True, True)))

    refused(build, rf"RNN 'n1' cannot be compiled: its input {missing} is not constant")


@pytest.mark.parametrize("known", [False, True])
def test_a_sequence_that_is_known_or_not(known: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in {"w": (1, 36, 6), "r": (1, 36, 9), "x": (5, 1, 6)}.items()
    }
    shapes = {"h": [1, 1, 9], "c": [1, 1, 9]} | ({} if known else {"x": [5, 1, 6]})
    constants = {name: a for name, a in arrays.items() if known or name != "x"}
    nodes = [om.node("LSTM", "x w r - - h c", "y", hidden_size=9)]
    model = om.model(nodes, shapes, constants=constants)
    with compile_network(model.SerializeToString()).engine() as engine:
        assert engine.info["inputs"][0]["name"] == "h"  # it was compared with the reference


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_a_sequence_without_steps_ends_in_zeros(op: str) -> None:
    """Whatever its first states are: as ONNX Runtime has it."""
    rng, gates = np.random.default_rng(0), recurrent.FAMILIES[op].gates
    constants = {
        "w": rng.standard_normal((1, gates * 5, 3)), "r": rng.standard_normal((1, gates * 5, 5)),
    }  # fmt: skip
    starts = ["h0", "c0"][: 2 if op == "LSTM" else 1]
    ends = ["h", "c"][: len(starts)]
    names = " ".join(f"{name}t" for name in starts)
    nodes = [
        *(om.node("Transpose", name, f"{name}t", perm=(1, 0, 2)) for name in ("x", *starts)),
        om.node(
            op, f"xt w r - n {names}", " ".join(["-", *(f"{e}t" for e in ends)]), hidden_size=5
        ),
        *(om.node("Transpose", f"{name}t", name, perm=(1, 0, 2)) for name in ends),
    ]
    shapes = {"x": ["N", 4, 3], "n": ["N"]} | {name: ["N", 1, 5] for name in starts}
    inputs = [om.value(k, v, np.int32 if k == "n" else np.float32) for k, v in shapes.items()]
    arrays = {name: a.astype(np.float32) for name, a in constants.items()}
    model = om.model(nodes, inputs, " ".join(ends), constants=arrays)
    given_arrays = {
        name: rng.standard_normal([n if n != "N" else 19 for n in shape]).astype(np.float32)
        for name, shape in shapes.items()
    }
    given_arrays["n"] = (np.arange(19) % 5).astype(np.int32)
    wanted = om.onnxruntime_gives(model, given_arrays)
    with compile_network(model.SerializeToString()).engine(1) as engine:
        got = as_tuple(engine(given_arrays))
    for one, other in zip(got, wanted.values(), strict=True):
        assert not one[::5].any()
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_last_states_alone_of_samples_that_come_first() -> None:
    rng = np.random.default_rng(0)
    sizes = {"w": (2, 12, 5), "r": (2, 12, 4)}
    arrays = {name: rng.standard_normal(n).astype(np.float32) for name, n in sizes.items()}
    attributes = {"hidden_size": 4, "layout": 1, "direction": "bidirectional"}
    node = om.node("GRU", "x w r", "- y", **attributes)
    model = om.model([node], {"x": ["N", 3, 5]}, constants=arrays)
    with compile_network(model.SerializeToString()).engine(1) as engine:
        assert engine(np.zeros((3, 3, 5), np.float32)).shape == (3, 2, 4)  # it was compared
