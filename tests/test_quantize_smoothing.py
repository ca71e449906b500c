"""What is computed in float32 before it is rounded: divided channels, and functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

import onnx_models as om
import secateur
from secateur.export import to_onnx
from secateur.quantization import network as networks
from secateur.quantization import running, smoothing
from secateur.quantization.placement import layers_of

pytest.importorskip("onnxruntime")


def away(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


ROWS = np.random.default_rng(0).standard_normal((64, 5, 8)).astype(np.float32)


class Block(nn.Module):
    """A norm that two layers and a sum read, as in transformers."""

    def __init__(self, gain: np.ndarray) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(8)
        self.left, self.right = nn.Linear(8, 12), nn.Linear(8, 12, bias=False)
        self.back = nn.Linear(12, 8)
        with torch.no_grad():
            self.norm.weight.copy_(torch.from_numpy(gain))
            for layer in (self.left, self.right):
                layer.weight.div_(self.norm.weight.abs())
                layer.weight[torch.rand_like(layer.weight) < 0.5] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y + self.back(torch.relu(self.left(y)) * self.right(y))


@settings(max_examples=15)  # each exports a network
@given(hnp.arrays(np.float32, 8, elements=st.floats(2**-8, 2**8, width=32)))
def test_divided_channels_change_nothing_in_float(gain: np.ndarray) -> None:
    network = networks.read(to_onnx(Block(gain).eval(), torch.from_numpy(ROWS[:1])))
    layers = layers_of(network.graph)
    data = {network.graph.inputs[0]: ROWS}
    other = smoothing.smoothed(network, layers, (), data)
    if other is None:  # all are of about one size
        assert gain.max() < 8 * gain.min()
        return
    before, after = (running.run(one, data)["output"] for one in (network, other))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    zeros = [
        {name: int((layer.values(one.graph)[0] == 0).sum()) for name, layer in layers.items()}
        for one, layers in ((network, layers), (other, layers_of(other.graph)))
    ]
    assert zeros[0] == zeros[1]


def test_outliers_of_a_norm_cost_no_accuracy() -> None:
    made = {}
    for largest in (1.0, 100.0):
        gain = np.ones(8, np.float32)
        gain[3] = largest
        module = Block(gain).eval()
        made[largest] = secateur.quantize(module, ROWS)
    assert not made[1].smoothed
    assert made[100].smoothed
    assert made[100].document()["smoothed"]
    assert "channels of float32 values divided" in made[100].summary()
    assert len(made[100].int8) == 3
    # beside the sum, which is all outlier, the layers count for little: look at them alone
    assert made[100].error < made[1].error
    with torch.no_grad():
        wanted = module(torch.from_numpy(ROWS)).numpy()
    theirs = om.onnxruntime_gives(onnx.load_from_string(made[100].content), {"input": ROWS})
    ours = secateur.compile(made[100].content)(ROWS)
    size = np.abs(np.delete(wanted, 3, -1)).max()
    for found in (*theirs.values(), ours):
        assert np.abs(np.delete(found - wanted, 3, -1)).max() < 0.05 * size


def test_a_layer_that_stays_in_float_is_left_as_it_is() -> None:
    gain = np.float32([1, 1, 1, 100, 1, 1, 1, 1])
    network = networks.read(to_onnx(Block(gain).eval(), torch.from_numpy(ROWS[:1])))
    layers = layers_of(network.graph)
    data = {network.graph.inputs[0]: ROWS}
    first = [name for name, layer in layers.items() if layer.data != layers[[*layers][-1]].data]
    assert smoothing.smoothed(network, layers, layers, data) is None
    other = smoothing.smoothed(network, layers, first[:1], data)
    assert other is not None
    kept = next(node for node in other.graph.nodes if node.name == first[0])
    assert kept == layers[first[0]].node


def outlying() -> nn.Sequential:
    """A norm with a channel of 80 times the size, and two layers that read it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6)).eval()
    with torch.no_grad():
        net[0].weight[2] = 80
        net[1].weight[:, 2] /= 80
    return net


def test_what_nobody_rounds_any_more_is_not_divided() -> None:
    """A layer that goes back to float32 afterwards has the value and the weights that it had."""
    net, rows = outlying(), ROWS[:, 0]
    made = secateur.quantize(net, rows)
    assert made.smoothed
    assert "Mul" in {node.op_type for node in onnx.load_from_string(made.content).graph.node}
    back = secateur.quantize(net, rows, max_drop=1e-9)
    assert (back.int8, back.smoothed) == ((), False)
    assert "divided" not in back.summary()
    graph = onnx.load_from_string(back.content).graph
    assert [node.op_type for node in graph.node] == ["LayerNormalization", "Gemm"]
    weights = {tuple(onnx.numpy_helper.to_array(c).ravel()) for c in graph.initializer}
    assert tuple(net[1].weight.detach().numpy().ravel()) in weights
    assert len(graph.initializer) == 4


def test_outputs_that_are_infinite_for_good_are_no_error() -> None:
    """Such as masked scores; and where no error can be told, nothing is divided."""
    net = outlying()
    mask = torch.zeros(6)
    mask[4] = -torch.inf

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.net(x) + self.mask
            return scores

    rows = ROWS[:, 0]
    made, plain = secateur.quantize(Masked().eval(), rows), secateur.quantize(net, rows)
    assert made.smoothed
    assert 0 < made.error < 2 * plain.error
    (found,) = om.onnxruntime_gives(onnx.load_from_string(made.content), {"input": rows}).values()
    assert (found[:, 4] == -np.inf).all()


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_functions_may_read_what_a_layer_gives_before_it_is_rounded(approximate: str) -> None:
    """Half of what the first layer gives is far below zero, where GELU gives nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        model[0].bias[::2] -= 40
    data = np.random.default_rng(0).standard_normal((256, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(data)).numpy()
    table, made = (secateur.quantize(model, data, exact=exact) for exact in (False, True))
    assert not table.exact
    assert made.exact
    assert made.document()["exact"]
    assert made.int8 == table.int8
    assert "functions in float32" in made.summary()
    assert made.error < 0.02 < table.error
    file = onnx.load_from_string(made.content)
    (found,) = om.onnxruntime_gives(file, {"input": data}).values()
    assert away(found, wanted) < 0.02
    assert "Gelu" in [node.op_type for node in file.graph.node]
    # levels may differ by one, where ONNX Runtime's GELU and ours round to both sides of a half
    assert away(secateur.compile(made.content)(data), found) < 0.01
