"""Quantised networks give what their float networks give, in ONNX Runtime and here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import checker, numpy_helper
from torch import nn

import channel_nets
import onnx_models as om
import secateur
from secateur.export import to_onnx

pytest.importorskip("onnxruntime")


def gives(content: bytes, data: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return what ONNX Runtime gives, without changing the graph."""
    return list(om.onnxruntime_gives(onnx.load_from_string(content), data).values())


def away(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def initializers(content: bytes) -> dict[str, np.ndarray]:
    graph = onnx.load_from_string(content).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 9, 5),
    ).eval()


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", [n for n in channel_nets.NETS if n not in ("vit", "swin")])
def test_every_kind_of_network_stays_close_for_any_number_of_samples(name: str) -> None:
    module, _ = channel_nets.made(name)
    content = to_onnx(module, channel_nets.NETS[name].example())
    data = np.concatenate([channel_nets.NETS[name].example().numpy() for _ in range(6)])
    made = secateur.quantize(content, data)
    checker.check_model(onnx.load_from_string(made.content), full_check=True)
    assert made.int8 == tuple(row.name for row in made.rows)
    assert made.error < 0.06
    key = onnx.load_from_string(content).graph.input[0].name
    for count in (1, 3, 6):
        given = {key: data[:count]}
        for found, wanted in zip(gives(made.content, given), gives(content, given), strict=True):
            assert found.shape == wanted.shape
            assert away(found, wanted) < 0.06


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_network_that_holds_its_batch_in_shapes_is_quantised_for_that_batch(name: str) -> None:
    module, example = channel_nets.made(name)
    content, count = to_onnx(module, example), len(example)
    data = images(8 * count, *example.shape[1:])
    given = {"input": data[:count]}
    for shapes in ({}, {"input": tuple(example.shape)}):
        made = secateur.quantize(content, data, input_shapes=shapes)
        assert away(gives(made.content, given)[0], gives(content, given)[0]) < 0.05


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_module_that_writes_its_batch_into_shapes_is_quantised_for_any(
    name: str, tmp_path: Path
) -> None:
    module, example = channel_nets.made(name)
    data = images(16, *example.shape[1:])
    made = secateur.quantize(module, data)
    made.save(tmp_path / "net.onnx")
    with secateur.compile(tmp_path / "net.onnx") as engine:
        for count in (1, 3, 16):
            with torch.no_grad():
                wanted = module(torch.from_numpy(data[:count])).numpy()
            assert away(gives(made.content, {"input": data[:count]})[0], wanted) < 0.05
            assert away(engine(data[:count]), wanted) < 0.05


class Windows(nn.Module):
    """Three windows of a sample, each with a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 6)
        self.register_buffer("mask", torch.randn(3, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x.reshape(-1, 2, 4))
        y = torch.softmax(y + self.mask.repeat(x.shape[0], 1, 1), 1)
        return y.reshape(x.shape[0], -1)


def test_a_constant_of_several_rows_a_sample_is_repeated_in_the_file() -> None:
    module, data = Windows().eval(), images(16, 6, 4)
    made = secateur.quantize(module, data)
    for count in (1, 5, 16):
        with torch.no_grad():
            wanted = module(torch.from_numpy(data[:count])).numpy()
        assert away(gives(made.content, {"input": data[:count]})[0], wanted) < 0.02


class Numbered(nn.Module):
    """What it gives depends on the place in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x) * torch.arange(len(x))[:, None]
        return y


def test_a_module_whose_samples_are_numbered_is_refused() -> None:
    with pytest.raises(secateur.SecateurError, match="cannot be compiled"):
        secateur.quantize(Numbered().eval(), images(16, 4))


def test_a_torch_module_a_file_and_its_content_give_the_same(tmp_path: Path) -> None:
    module, data = small(), images(40, 3, 8, 8)
    path = tmp_path / "net.onnx"
    secateur.export_onnx(module, torch.zeros(2, 3, 8, 8), path)
    made = [
        secateur.quantize(module, torch.from_numpy(data)),
        secateur.quantize(path, data),
        secateur.quantize(str(path), [data]),
        secateur.quantize(path.read_bytes(), {"input": data.astype(np.float64)}),
        secateur.quantize(onnx.load(path), data),
    ]
    assert len({one.content for one in made}) == 1


def test_it_is_smaller_and_says_what_was_done(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    content = to_onnx(module, torch.zeros(1, 64))
    made = secateur.quantize(content, images(64, 64))
    assert len(made.content) < 0.3 * len(content)
    assert [(row.kind, row.precision, row.why) for row in made.rows] == [("Gemm", "int8", "")] * 2
    assert all(0 < row.error < 0.05 for row in made.rows if row.error is not None)
    assert "2 of 2 layers in int8, from 64 samples" in made.summary()
    assert set(made.errors) == {"minmax", "p99.999", "p99.99", "p99.9", "mse"}
    path = tmp_path / "net-int8.onnx"
    made.save(path)
    made.save(path)  # a quantised model may be replaced
    assert path.read_bytes() == made.content
    (tmp_path / "float.onnx").write_bytes(content)
    with pytest.raises(secateur.SecateurError, match="no quantised ONNX model"):
        made.save(tmp_path / "float.onnx")
    made.save(tmp_path / "float.onnx", force=True)


def test_zeros_of_weights_stay_zeros_and_scales_are_per_output() -> None:
    module = small()
    with torch.no_grad():
        for layer in (module[0], module[3], module[7]):
            layer.weight[torch.rand_like(layer.weight) < 0.7] = 0
        module[3].weight[2] = 0  # a whole channel
    made = secateur.quantize(module, images(32, 3, 8, 8))
    found = {k: v for k, v in initializers(made.content).items() if v.dtype == np.int8}
    assert len(found) == 3
    for array, layer in zip(found.values(), (module[0], module[3], module[7]), strict=True):
        zeros = (layer.weight == 0).numpy()
        if array.shape == zeros.shape:  # no channel was removed
            assert not array[zeros].any()
        assert (array == 0).mean() > 0.5
        assert np.abs(array.astype(int)).max() <= 127


def test_calibration_may_be_few_samples_or_one() -> None:
    module = small()
    for count in (1, 2, 3):
        made = secateur.quantize(module, np.concatenate([images(count, 3, 8, 8)] * 1))
        assert made.samples == count
        assert made.error < 0.1


def test_a_batch_that_the_file_fixes_stays_fixed() -> None:
    content = to_onnx(small(), torch.zeros(4, 3, 8, 8), batched=False)
    data = images(16, 3, 8, 8)
    made = secateur.quantize(content, data)
    given = {"input": data[:4]}
    assert away(gives(made.content, given)[0], gives(content, given)[0]) < 0.05
    with pytest.raises(secateur.SecateurError, match="fixes a batch of 4; give a multiple"):
        secateur.quantize(content, data[:6])
    large = to_onnx(nn.Linear(3, 2), torch.zeros(150, 3), batched=False)
    for batches in (1, 2, 5):
        assert secateur.quantize(large, images(150 * batches, 3)).samples == 150 * batches


def test_a_file_that_takes_one_sample_alone_says_so() -> None:
    nodes = [om.node("Reshape", "x shape", "t"), om.node("MatMul", "t w", "y")]
    constants = {"shape": np.array([1, 12], np.int64), "w": images(12, 2)}
    proto = om.model(nodes, {"x": ["N", 3, 4]}, constants=constants)
    data = images(16, 3, 4)
    with pytest.raises(secateur.SecateurError, match=r"one sample alone.*: fix the batch"):
        secateur.quantize(proto, data)
    made = secateur.quantize(proto, data, input_shapes={"x": (1, 3, 4)})
    assert (
        away(gives(made.content, {"x": data[:1]})[0], data[:1].reshape(1, 12) @ images(12, 2))
        < 0.05
    )


def test_float16_is_computed_in_float32() -> None:
    proto = om.linear()
    nodes = [om.node("MatMul", "x w", "t"), om.node("Relu", "t", "y")]
    half = om.model(
        nodes, [om.value("x", ["N", 3], np.float16)], constants={"w": om.WEIGHTS.astype(np.float16)}
    )
    data = images(16, 3)
    assert secateur.quantize(half, data).int8 == secateur.quantize(proto, data).int8
    made = secateur.quantize(half, data.astype(np.float16))
    assert gives(made.content, {"x": data})[0].dtype == np.float32


def test_outputs_of_several_rows_a_sample_and_of_integers_are_compared() -> None:
    nodes = [
        om.node("MatMul", "x w", "t"),
        om.node("Reshape", "t shape", "rows"),
        om.node("ArgMax", "t", "best", axis=-1),
    ]
    constants = {"w": om.WEIGHTS, "shape": np.array([-1, 2], np.int64)}
    proto = om.model(nodes, {"x": ["N", 3]}, "rows best", constants)
    data = images(40, 3)
    made = secateur.quantize(proto, data)
    assert 0 < made.error < 0.1
    found, best = gives(made.content, {"x": data})
    assert found.shape == (80, 2)
    assert best.dtype == np.int64


def test_shapes_and_constants_that_count_samples_are_written_down() -> None:
    """A class token that is expanded, a reshape with the batch in the middle, a scalar count."""
    nodes = [
        om.node("Shape", "x", "n", start=0, end=1),
        om.node("Concat", "n one eight", "wide", axis=0),
        om.node("Expand", "token wide", "tokens"),
        om.node("Concat", "tokens x", "both", axis=1),
        om.node("MatMul", "both w", "h"),
        om.node("Add", "h b", "hb"),
        om.node("Transpose", "hb", "t", perm=[1, 0, 2]),
        om.node("Concat", "four n eight", "shape", axis=0),
        om.node("Reshape", "t shape", "u"),
        om.node("Concat", "n eight four", "back", axis=0),
        om.node("Reshape", "u back", "v"),
        om.node("MatMul", "v w2", "y"),
    ]
    constants = {
        "one": np.array([1], np.int64),
        "four": np.array([4], np.int64),
        "eight": np.array([8], np.int64),
        "token": images(1, 1, 8),
        "w": images(8, 8, seed=1),
        "b": images(8, seed=2),
        "w2": images(4, 3, seed=3),
    }
    proto = om.model(nodes, {"x": ["N", 3, 8]}, constants=constants)
    data = images(24, 3, 8)
    made = secateur.quantize(proto, data)
    for count in (1, 5, 24):
        given = {"x": data[:count]}
        wanted = om.onnxruntime_gives(proto, given)["y"]
        assert away(gives(made.content, given)[0], wanted) < 0.05


class Looked(nn.Module):
    """Reads each sample by its number, as transformers 5 reads a mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 6)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x[torch.arange(x.shape[0])[:, None], self.order])
        return y


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["INT32", "INT64"])
def test_numbers_of_samples_are_written_down(axis: int, kind: str) -> None:
    """Indices into what all samples have together, along either axis."""
    nodes = [
        om.node("Shape", "x", "n", start=0, end=1),
        om.node("Squeeze", "n", "count"),
        om.node("Range", "zero count one", "numbers"),
        om.node("Unsqueeze", "numbers other", "column"),
        om.node("Mul", "column four", "begins"),
        om.node("Add", "begins order", "long"),
        om.node("Cast", "long", "places", to=getattr(onnx.TensorProto, kind)),
        om.node("Reshape", "x all", "flat"),
        om.node("Gather", "flat places", "read", axis=0),
        om.node("Transpose", "read", "turned", perm=[axis, 1 - axis]),
        om.node("MatMul", "turned w", "y"),
    ]
    order = np.array([2, 0, 3, 1], np.int64)
    constants = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "four": np.array(4, np.int64),
        "other": np.array([1 - axis], np.int64),
        "order": np.expand_dims(order, axis),
        "all": np.array([-1], np.int64),
        "w": images(4, 3),
    }
    proto = om.model(nodes, {"x": ["N", 4]}, constants=constants)
    data = images(24, 4)
    made = secateur.quantize(proto, data)
    for count in (1, 5, 24):
        given = {"x": data[:count]}
        wanted = om.onnxruntime_gives(proto, given)["y"]
        assert away(gives(made.content, given)[0], wanted) < 0.05


def test_a_module_may_read_its_samples_by_their_numbers() -> None:
    module, data = Looked().eval(), images(24, 4)
    made = secateur.quantize(module, data)
    engine = secateur.compile(made.content)
    for count in (1, 3, 24):
        with torch.no_grad():
            wanted = module(torch.from_numpy(data[:count])).numpy()
        assert away(gives(made.content, {"input": data[:count]})[0], wanted) < 0.05
        assert away(engine(data[:count]), wanted) < 0.05


def test_layers_go_back_to_float_until_a_drop_holds() -> None:
    module, _ = channel_nets.made("resnet")
    content, data = to_onnx(module, torch.zeros(2, 3, 8, 8)), images(48, 3, 8, 8)
    free = secateur.quantize(content, data)
    assert free.drop is None
    held = secateur.quantize(content, data, max_drop=free.error / 2)
    assert held.drop is not None
    assert 0 < held.error <= free.error / 2
    assert 0 < len(held.fp32) < len(held.rows)
    assert all("sensitive" in row.why for row in held.rows if row.precision == "fp32")
    assert all(row.alone is not None for row in held.rows)
    assert all(name in held.summary() for name in held.fp32)
    loose = secateur.quantize(content, data, max_drop=1.0)
    assert loose.content == free.content
    none = secateur.quantize(content, data, max_drop=0.0)
    assert not none.int8
    assert none.error == none.drop == 0


def test_a_drop_may_be_that_of_a_score() -> None:
    module, _ = channel_nets.made("resnet")
    data = images(48, 3, 8, 8)
    with torch.no_grad():
        labels = module(torch.from_numpy(data)).argmax(1).numpy()
    seen = []

    def score(outputs: np.ndarray) -> float:
        seen.append(outputs.shape)
        return float((outputs.argmax(1) == labels).mean())

    made = secateur.quantize(module, data, score=score, max_drop=0.05)
    assert made.drop is not None
    assert made.drop <= 0.05
    assert set(seen) == {(48, *seen[0][1:])}


def test_a_layer_in_float_has_no_quantised_weights_and_no_input_of_its_own() -> None:
    module = small()
    content = to_onnx(module, torch.zeros(1, 3, 8, 8))
    names = [row.name for row in secateur.quantize(content, images(8, 3, 8, 8)).rows]
    made = secateur.quantize(content, images(8, 3, 8, 8), keep_float=names[:1])
    assert made.fp32 == (names[0],)
    assert made.rows[0].why == "asked for"
    graph = onnx.load_from_string(made.content).graph
    first = next(node for node in graph.node if node.op_type == "Conv")
    assert first.input[0] == "input"
    assert initializers(made.content)[first.input[1]].dtype == np.float32


def test_a_bias_that_does_not_fit_leaves_its_layer_in_float() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        module[0].weight.mul_(1e-8)
        module[0].bias.fill_(1e4)
    made = secateur.quantize(module, images(16, 4))
    assert [row.precision for row in made.rows] == ["fp32", "int8"]
    assert made.rows[0].why == "its sums or its bias may not fit 32 bits"


def test_it_compiles_and_the_engine_gives_what_onnx_runtime_gives() -> None:
    data = images(16, 3, 8, 8)
    made = secateur.quantize(small(), data)
    with secateur.compile(made.content) as engine:
        found = engine(data)
    assert away(found, gives(made.content, {"input": data})[0]) < 0.01
