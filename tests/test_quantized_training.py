"""Training in 8 bit: what modules compute with their hooks is what the int8 file gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import channel_nets
import onnx_models as om
import secateur
from secateur import (
    QuantizedTraining,
)
from secateur.errors import CompileError, TrainingError, UsageError
from secateur.quantization.fake import Range, Value, rounded_weight, straight
from secateur.quantization.ranges import scale_of
from secateur.quantization.weights import integers_of
from trained_in_8_bit import away, computed, gives, images, small, trained

pytest.importorskip("onnxruntime")

EXACT = ("gpt", "llama", "lstm", "conv1d", "conv3d")
"""Nets of which no number is near enough to the edge of a step to fall on the other side."""


class Residual(nn.Module):
    """A sum of two, each of which something else reads, too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.last = nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = functional.relu(self.second(x) + x)
        out: Tensor = self.last(x.mean((2, 3)))
        return out


# What is computed


def test_gradients_go_straight_through_and_stop_at_the_ends() -> None:
    x = torch.tensor([-9.0, -1.24, -0.1, 0.0, 0.26, 3.1, 9.0], requires_grad=True)
    y = straight(x, torch.tensor(0.5), torch.tensor(2.0), 0, 8)
    assert y.tolist() == [-1.0, -1.0, 0.0, 0.0, 0.5, 3.0, 3.0]
    (y * torch.arange(1.0, 8.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]


def test_weights_are_those_that_are_stored_and_all_of_them_learn() -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    weight[:, 1] = 0
    weight.requires_grad_()
    found = rounded_weight(weight)
    integers, steps = integers_of(weight.detach().numpy(), 0, clipped=False)
    assert np.array_equal(found.detach().numpy(), integers * steps[:, None, None, None])
    assert not found[:, 1].any()
    assert not found[2].any()
    found.sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad == 1).all())


ENDS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(ENDS, ENDS)
@example(0.0, 0.0)
@example(0.5, 2.0)
@example(-2.0, -1.0)
def test_values_are_those_that_are_stored(one: float, other: float) -> None:
    low, high = sorted([one, other])
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)) * (high - low or 1)
    x = torch.cat([x, torch.tensor([low, high, 0.0])])
    found = Range({"x": Value(torch.tensor([low, high]))}).rounded(x)
    assert np.array_equal(found.numpy(), scale_of(low, high).rounded(x.numpy()))
    assert found[-1] == 0


def test_ranges_follow_the_batches_of_training_alone() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), images(10, 4)
    training = QuantizedTraining(model, x)
    (first,) = training.state_dict().values()
    assert first.tolist() == [float(x.min()), float(x.max()), 1.0]
    model.eval()(100 * x)
    assert torch.equal(first, next(iter(training.state_dict().values())))
    model.train()(3 * x)
    (second,) = training.state_dict().values()
    assert second.tolist() == pytest.approx([2 * float(x.min()), 2 * float(x.max()), 2.0])
    for _ in range(1000):
        model(5 * x)
    (last,) = training.state_dict().values()
    assert last.tolist() == pytest.approx([5 * float(x.min()), 5 * float(x.max()), 1002], rel=1e-3)


def test_ranges_are_the_same_in_every_order_of_memory() -> None:
    x = images(4, 3, 5, 7)
    for part in (x, x.to(memory_format=torch.channels_last), x[:, :, 1:, 1:]):
        value = Value()
        value.follow(part)
        assert value.ends.tolist() == [float(part.min()), float(part.max())]
    value.follow(x[:0])
    assert float(value.batches) == 1


# What is exported


@pytest.mark.parametrize("name", channel_nets.NETS)
def test_the_file_gives_what_the_module_gave(name: str) -> None:
    model, _ = channel_nets.made(name)
    example = channel_nets.NETS[name].example()
    x = images(16, *example.shape[1:]) if example.is_floating_point() else example.repeat(8, 1)
    training = QuantizedTraining(model, x)
    model.train()
    with torch.no_grad():
        model(x)
    model.eval()
    wanted, layers = computed(model, x), training.layers
    made = training.finish(x)
    assert layers
    assert len(made.int8) >= len(layers)
    assert all(row.why == "not trained in 8 bit" for row in made.rows if row.precision == "fp32")
    assert away(gives(made.content, x), wanted) < (1e-4 if name in EXACT else 0.02)


def test_a_residual_is_rounded_in_training_where_a_module_gives_it(tmp_path: Path) -> None:
    model, x = Residual(), images()
    training = QuantizedTraining(model, x)
    assert training.layers == ("first", "second", "last")
    assert not any("second" in value or "first" in value for value in training.unseen)
    trained(model, x)
    wanted = computed(model, x)
    made = training.finish(x)
    assert away(gives(made.content, x), wanted) < 5e-3
    made.save(tmp_path / "net.onnx")
    with secateur.compile(tmp_path / "net.onnx") as engine:
        assert away(engine(x.numpy()), gives(made.content, x)) < 5e-3


def test_what_no_module_gives_is_named() -> None:
    model, x = Residual(), images()
    (unseen,) = QuantizedTraining(model, x).unseen
    assert "Relu" in unseen  # the last one is a function, and the mean reads it


def test_the_file_has_the_ranges_that_were_trained() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    trained(model, x)
    ends = training.state_dict()["input"]
    made = training.finish(5 * x)  # other data change nothing
    arrays = stored(made.content)
    scale = scale_of(float(ends[0]), float(ends[1]))
    assert arrays["input_scale"] == scale.step
    assert arrays["input_zero_point"] == scale.zero
    assert made.method == "training"


def stored(content: bytes) -> dict[str, np.ndarray]:
    tensors = onnx.load_from_string(content).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 8, 3)),
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)),
        nn.Sequential(nn.Flatten(), nn.Linear(192, 8)),
    ],
    ids=["conv", "norm", "linear"],
)
def test_what_a_layer_gives_is_off_by_half_a_step_of_its_bias_at_most(model: nn.Module) -> None:
    """A step is that of the input times that of the weights; all else is the same numbers."""
    x = images(64)
    training = QuantizedTraining(model, x)
    trained(model, x, 5)
    wanted = computed(model, x)
    content = training.finish(x).content
    (step,) = (array for name, array in stored(content).items() if name.endswith("bias_scale"))
    off = np.abs(gives(content, x) - wanted)
    most = off.max(tuple(axis for axis in range(off.ndim) if axis != 1))
    assert most.max() > 0
    assert bool((most <= 0.5 * step + 1e-5 * np.abs(wanted).max()).all())


def test_values_behind_a_layer_are_off_by_one_level_now_and_then() -> None:
    model, x = small(), images(64)
    training = QuantizedTraining(model, x)
    trained(model, x, 20)
    seen: list[Tensor] = []
    hook = model[4].register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore[index, union-attr]
    computed(model, x)
    hook.remove()
    proto = onnx.load_from_string(training.finish(x).content)
    name = "/3/MaxPool_output_0"
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(f"{name}_dq"))
    found = om.onnxruntime_gives(proto, {"input": x.numpy()})[f"{name}_dq"]
    step = stored(proto.SerializeToString())["/2/Relu_output_0_scale"]
    levels = np.abs(np.rint((found - seen[0].numpy()) / step))
    assert levels.max() == 1
    assert levels.mean() < 0.02


def test_layers_that_are_kept_in_float_are_so_in_both() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x, keep_float=["7"])
    assert training.layers == ("0", "4")
    trained(model, x)
    wanted = computed(model, x)
    made = training.finish(x)
    assert made.fp32 == ("/7/Gemm",)
    assert away(gives(made.content, x), wanted) < 5e-3


def test_channels_that_training_left_dead_are_gone_from_the_file() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    trained(model, x)
    with torch.no_grad():
        for name in ("0.weight", "1.weight", "1.bias"):
            model.get_parameter(name)[2:5] = 0
    wanted = computed(model, x)
    made = training.finish(x)
    assert len(made.int8) == 3
    assert (5, 3, 3, 3) in [array.shape for array in stored(made.content).values()]
    assert away(gives(made.content, x), wanted) < 1e-2


class Twice(nn.Module):
    """One layer that reads two values, one of them far larger."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.relu = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.relu(10 * self.layer(x)))
        return y


def test_a_layer_that_is_called_twice_has_one_range_for_both() -> None:
    model, x = Twice(), images(32, 6)
    training = QuantizedTraining(model, x)
    model.train()
    for _ in range(5):
        model(x)
    assert len(training.state_dict()) == 2
    model.eval()
    wanted = computed(model, x)
    assert away(gives(training.finish(x).content, x), wanted) < 5e-3


def test_a_pass_that_failed_between_two_calls_does_not_swap_them() -> None:
    model, x = Twice(), images(32, 6)
    training = QuantizedTraining(model, x)
    model.train()
    model(x)
    before = {name: value.clone() for name, value in training.state_dict().items()}
    failing = model.relu.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    failing.remove()
    model(x)  # the same batch: what each call reads stays as it was
    for name, value in training.state_dict().items():
        torch.testing.assert_close(value[:2], before[name][:2], rtol=1e-3, atol=1e-3)


# Bad input


def test_a_second_attachment_and_a_second_end_are_refused() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    with pytest.raises(UsageError, match=r"trained in 8 bit already.*QuantizedTraining\.of"):
        QuantizedTraining(model, x)
    with pytest.raises(UsageError, match=r"trained in 8 bit.*finish"):
        secateur.quantize(model, x)
    training.remove()
    with pytest.raises(UsageError, match="finished or removed before"):
        training.finish(x)
    with pytest.raises(UsageError, match="not trained in 8 bit; begin with"):
        QuantizedTraining.of(model)


def test_a_model_that_was_not_trained_is_refused() -> None:
    model, x = small().eval(), images()
    training = QuantizedTraining(model, x)
    model(x)
    with pytest.raises(UsageError, match=r"no batch in training mode.*model\.train\(\)"):
        training.finish(x)
    trained(model, x)  # nothing was changed
    assert training.finish(x).int8


def test_ranges_that_are_not_finite_are_refused() -> None:
    model, x = small(), images()
    with pytest.raises(UsageError, match=r"input 'input' hold NaN or infinity"):
        QuantizedTraining(model, torch.full_like(x, torch.nan))
    large = small()
    large.get_parameter("0.weight").data *= 100
    with pytest.raises(UsageError, match=r"'/.*' of the network is NaN or infinite on the data"):
        QuantizedTraining(large, torch.cat([x, torch.full_like(x, 3e38)]))
    assert not any(module._forward_pre_hooks for module in large.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    training = QuantizedTraining(model, x)
    model.train()
    assert bool(model(torch.full_like(x, torch.inf)).isnan().any())
    with pytest.raises(TrainingError, match="range of value 'input' is NaN or infinite"):
        training.finish(x)


def test_weights_that_are_not_finite_or_not_float32_are_refused() -> None:
    model, x = small(), images()
    weight = model.get_parameter("0.weight")
    weight.data[0] = torch.nan
    with pytest.raises(UsageError, match=r"'0\.weight' of the model holds NaN"):
        QuantizedTraining(model, x)
    with pytest.raises(UsageError, match=r"'0\.weight' is torch\.bfloat16.*model\.float\(\)"):
        QuantizedTraining(small().bfloat16(), x.bfloat16())
    weight.data[0] = 0
    training = QuantizedTraining(model, x)
    trained(model, x)
    weight.data[0] = torch.inf
    with pytest.raises(TrainingError, match=r"'0\.weight' of the model holds NaN.*diverged"):
        training.finish(x)
    weight.data[0] = 0
    assert training.finish(x).int8


@pytest.mark.parametrize("ends", [[torch.nan, 1, 1], [1.0, -1.0, 1.0], [0.0, torch.inf, 1.0]])
def test_ranges_of_which_no_training_can_go_on_are_refused(ends: list[float]) -> None:
    training = QuantizedTraining(small(), images())
    before = training.state_dict()
    state = before | {"input": torch.tensor(ends)}
    with pytest.raises(UsageError, match=r"range of value 'input'.*earlier checkpoint"):
        training.load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in training.state_dict().items())


def test_data_and_names_that_do_not_fit_are_refused() -> None:
    model, x = small(), images()
    with pytest.raises(UsageError, match="give an array or a tensor"):
        QuantizedTraining(model, "images")
    with pytest.raises(UsageError, match=r"keep_float names 'fc'.*named_modules"):
        QuantizedTraining(model, x, keep_float=["fc"])
    training = QuantizedTraining(model, x)
    trained(model, x)
    with pytest.raises(UsageError, match="does not take the data"):
        training.finish(images(8, 2, 8, 8))
    with pytest.raises(UsageError, match="data are empty"):
        training.finish(images(0))
    with pytest.raises(UsageError, match="hold NaN or infinity"):
        training.finish(x / 0)
    with pytest.raises(UsageError, match="of another model"):
        training.load_state_dict({"input": torch.zeros(3)})
    assert training.finish(x).int8


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(192, 2))),
    ],
    ids=["none", "computed"],
)
def test_a_module_without_layers_is_refused(model: nn.Module) -> None:
    with pytest.raises(CompileError, match="no layer of the module can be trained in 8 bit"):
        QuantizedTraining(model, images())
