"""What recurrent layers mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from operator_harness import agree, normal, ours, refused

STATES = {"RNN": (1, 2), "GRU": (3, 2), "LSTM": (4, 3)}


class TestRecurrence:
    @pytest.mark.parametrize("op", list(STATES))
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    @pytest.mark.parametrize("full", [False, True])
    def test_equals_onnxruntime(self, op: str, direction: str, full: bool) -> None:
        x, arrays, attributes = self._layer(op, direction, full)
        agree(op, x, *arrays, outputs=STATES[op][1], **attributes)

    @pytest.mark.parametrize("op", list(STATES))
    def test_layout_swaps_axes(self, op: str) -> None:
        x, arrays, attributes = self._layer(op, "bidirectional", True)
        outputs = STATES[op][1]
        y, *last = ours(op, x, *arrays, outputs=outputs, **attributes)
        arrays[4:6] = [a if a is None else a.swapaxes(0, 1) for a in arrays[4:6]]
        y1, *last1 = ours(
            op, x.swapaxes(0, 1), *arrays, outputs=outputs, layout=1, **attributes
        )  # fmt: skip
        np.testing.assert_allclose(y1, y.transpose(2, 0, 1, 3), rtol=1e-6)
        for a, b in zip(last, last1, strict=True):
            np.testing.assert_allclose(b, a.swapaxes(0, 1), rtol=1e-6)

    def _layer(self, op: str, direction: str, full: bool) -> tuple[np.ndarray, list[Any], Any]:
        gates = STATES[op][0]
        n, b, i, h, d = 4, 2, 3, 5, 1 + (direction == "bidirectional")
        arrays: list[np.ndarray | None] = [normal(2, d, gates * h, i), normal(3, d, gates * h, h)]
        attributes: dict[str, Any] = {"direction": direction, "hidden_size": h}
        if full:
            lengths = np.full(b, n, np.int32)
            arrays += [normal(4, d, 2 * gates * h), lengths, normal(5, d, b, h)]
            if op == "LSTM":
                arrays += [normal(6, d, b, h), normal(7, d, 3 * h)]
            if op == "GRU":
                attributes["linear_before_reset"] = 1
        return normal(1, n, b, i), arrays, attributes

    @pytest.mark.parametrize(
        ("attributes", "match"),
        [
            ({"activations": ("Relu", "Tanh", "Tanh")}, r"activations=\('Relu'"),
            ({"activation_alpha": (0.1,)}, r"activation_alpha"),
            ({"input_forget": 1}, r"input_forget=1"),
            ({"clip": -3.0}, r"clip=-3.0"),
            ({"direction": "both"}, r"direction=both"),
            ({"hidden_size": 4}, r"hidden_size=4"),
            ({"layout": 2}, r"layout=2"),
        ],
    )
    def test_refuses(self, attributes: dict[str, Any], match: str) -> None:
        x, arrays, known = self._layer("LSTM", "forward", True)
        refused("LSTM", x, *arrays, match=match, **(known | attributes))

    @pytest.mark.parametrize("op", list(STATES))
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    def test_sequences_of_several_lengths_equal_onnxruntime(self, op: str, direction: str) -> None:
        x, arrays, attributes = self._layer(op, direction, True)
        arrays[3] = np.array([4, 2], np.int32)
        agree(op, x, *arrays, outputs=STATES[op][1], **attributes)

    @pytest.mark.parametrize("op", list(STATES))
    @pytest.mark.parametrize("full", [False, True])
    def test_clipped_equals_onnxruntime(self, op: str, full: bool) -> None:
        x, arrays, attributes = self._layer(op, "forward", full)
        agree(op, x, *arrays, outputs=STATES[op][1], clip=0.4, **attributes)

    def test_refuses_wrong_lengths_and_shapes(self) -> None:
        x, arrays, known = self._layer("LSTM", "forward", True)
        for lengths, match in (([4, 5], "outside 0 to 4"), ([4], r"shape \(1,\), not \(2,\)")):
            wrong = [*arrays[:3], np.array(lengths, np.int32), *arrays[4:]]
            refused("LSTM", x, *wrong, match=f"sequence_lens .*{match}", **known)
        refused("LSTM", x, normal(1, 1, 20, 4), *arrays[1:], match=r"W has shape", **known)
