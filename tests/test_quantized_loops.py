"""Training in 8 bit in any loop: copies, compiled modules, autocast, gates, masks and rungs."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

import secateur
from secateur import (
    Budget,
    GatePhase,
    Gates,
    GateTraining,
    MaskHold,
    QuantizedTraining,
    Recipe,
    Rung,
    Task,
)
from trained_in_8_bit import away, computed, gives, images, small, trained

pytest.importorskip("onnxruntime")

# What it leaves alone


def test_a_module_is_what_it_was_while_it_is_trained_and_afterwards() -> None:
    model, x = small(), images()
    model.eval()
    before, plain = copy.deepcopy(model.state_dict()), computed(model, x)
    names = [name for name, _ in model.named_parameters()], [n for n, _ in model.named_buffers()]
    training = QuantizedTraining(model, x)
    assert model.state_dict().keys() == before.keys()
    assert names == (
        [name for name, _ in model.named_parameters()],
        [n for n, _ in model.named_buffers()],
    )
    assert not np.array_equal(computed(model, x), plain)
    training.remove()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert np.array_equal(computed(model, x), plain)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "weight" not in module.__dict__


def test_a_forward_that_fails_leaves_weights_visible() -> None:
    model, x = small(), images()
    QuantizedTraining(model, x)
    with pytest.raises(RuntimeError):
        model(images(4, 2, 8, 8))
    assert all("weight" not in module.__dict__ for module in model.modules())


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "average": AveragedModel,
    "saved": lambda model: torch.load(_saved(model), weights_only=False),
}


def _saved(what: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_trained_in_8_bit_on_their_own(how: str) -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    trained(model, x, 2)
    again = COPIES[how](model).eval()
    wanted = computed(model, x)
    assert np.array_equal(computed(again, x), wanted)
    ranges = training.state_dict()
    again.train()(10 * x)
    assert all(torch.equal(ranges[key], end) for key, end in training.state_dict().items())
    other = QuantizedTraining.of(again)
    assert not torch.equal(other.state_dict()["input"], ranges["input"])
    other.load_state_dict(ranges)
    other.remove()
    assert np.array_equal(computed(model, x), wanted)
    assert training.layers == ("0", "4", "7")


def test_rounding_is_float32_under_autocast_and_dtypes_stay() -> None:
    model, x = nn.Sequential(nn.Linear(16, 4)), images(8, 16)
    QuantizedTraining(model, x)
    seen: list[Tensor] = []
    model.get_submodule("0").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(x).dtype == torch.bfloat16
    model(x)
    assert seen[0].dtype == torch.float32
    assert torch.equal(*seen)
    half = copy.deepcopy(model).bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16


# Beside gates, masks, finetune and rungs


def integers(content: bytes) -> list[np.ndarray]:
    """Return the weights of an int8 file, by the network's order."""
    tensors = onnx.load_from_string(content).graph.initializer
    arrays = map(onnx.numpy_helper.to_array, tensors)
    return [array for array in arrays if array.dtype == np.int8]


def test_it_works_beside_gates_and_held_masks() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    gating = GateTraining(model, optimizer)
    model.train()
    for _ in range(3):
        with gating.step():
            model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    masks = gating.finish(Budget(0.3))
    hold = MaskHold(model, optimizer, masks)
    for _ in range(3):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    hold.remove()
    model.eval()
    wanted = computed(model, x)
    made = training.finish(x)
    assert away(gives(made.content, x), wanted) < 5e-3
    for name, mask in masks.items():
        assert not bool(model.get_parameter(name)[~mask].any())
    stored = integers(made.content)
    kept = sum(int((array != 0).sum()) for array in stored)
    cut = sum(mask.numel() - int(mask.sum()) for mask in masks.values())
    assert kept <= sum(array.size for array in stored) - cut


def test_rungs_and_finetune_take_a_model_that_is_trained_in_8_bit(digits: Task) -> None:
    torch.manual_seed(0)
    model, data = digits.model(), digits.data(torch.device("cpu"))
    x = next(iter(data.calibration(64, 64, torch.Generator().manual_seed(0))))
    training = QuantizedTraining(model, x)
    plan = secateur.prunable(model)
    secateur.learn_gates(model, plan.names, data, Recipe(epochs=1), digits.loss, seed=0)
    rungs = [Rung(0.5, learn=Recipe(epochs=1)), Rung(0.3)]
    found = [masks for _, masks in secateur.descend(
        model, rungs, data, digits.loss, phase=GatePhase(), seed=1
    )]  # fmt: skip
    Gates.of(model).remove()
    secateur.finetune(model, found[-1], data, digits.loss, seed=2)
    model.eval()
    wanted = computed(model, x)
    made = training.finish(x)
    assert not made.fp32
    assert away(gives(made.content, x), wanted) < 0.02
    for name, mask in found[-1].items():
        assert not bool(model.get_parameter(name)[~mask].any())


def test_a_rung_in_fours_settles_in_8_bit_and_compiles_to_what_it_was_trained_as(
    digits: Task, tmp_path: Path
) -> None:
    """Every rung has an int8 network of its own; the ladder goes on in float."""
    images = digits.data(torch.device("cpu"))
    data = secateur.LoaderData(list(images.evaluation("validation", 32)))
    (x, labels), *_ = images.evaluation("test", 256)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    recipe = Recipe(epochs=3, rate=0.05, precision="fp32")
    secateur.train(model, data, replace(recipe, epochs=20), digits.loss, seed=0)
    Gates.attach(model, ["3.weight"])
    rungs, phase = [Rung(0.5, settle=recipe), Rung(0.2, settle=recipe)], GatePhase(pattern="dot4")
    for rung, masks in secateur.descend(model, rungs, data, digits.loss, phase=phase, seed=1):
        before = copy.deepcopy(model.state_dict())
        own = copy.deepcopy(model)
        training = QuantizedTraining(own, x)
        secateur.finetune(own, masks, data, digits.loss, recipe=recipe, seed=2)
        secateur.recalibrate(own, [x])
        wanted = computed(own.eval(), x)
        made = training.finish(x)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        found = gives(made.content, x)
        assert not made.fp32
        assert away(found, wanted) < 5e-3
        arrays = integers(made.content)
        fours = [np.logical_or.reduceat(w != 0, range(0, w.shape[1], 4), 1) for w in arrays]
        assert int(fours[1].sum()) <= round(rung.keep * 16 * 4 * 9)
    made.save(tmp_path / "net.onnx")
    with secateur.compile(tmp_path / "net.onnx") as engine:
        answers = engine(x.numpy())
    assert away(answers, wanted) < 5e-3
    right = [(y.argmax(1) == labels.numpy()).mean() for y in (answers, found, wanted)]
    assert right[0] > 0.5
    assert max(right) - min(right) <= 1 / len(labels)


def test_it_wins_back_what_quantising_loses(digits: Task) -> None:
    """Two weights of 200 that cancel leave steps of 1.6 for all others of an output.

    Of a convolution: what a linear layer reads would be made larger, and such weights smaller.
    """
    data = digits.data(torch.device("cpu"))

    def part(split: str) -> tuple[Tensor, Tensor]:
        found = list(data.evaluation(split))
        x = torch.cat([x.flatten(1) for x, _ in found])
        x = torch.cat([x, x[:, 20:21], x[:, 20:21]], 1)[:, :, None, None]
        return x, torch.cat([y for _, y in found])

    (x, y), (test, labels) = part("validation"), part("test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(66, 32, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))

    def train(epochs: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for _ in range(epochs):
            for k in range(0, len(x), 32):
                functional.cross_entropy(model(x[k : k + 32]), y[k : k + 32]).backward()
                optimizer.step()
                optimizer.zero_grad()

    def percent(outputs: np.ndarray) -> float:
        return 100 * float((outputs.argmax(1) == labels.numpy()).mean())

    train(30)
    with torch.no_grad():
        weight = model.get_parameter("0.weight")
        weight[:, -2] += 200
        weight[:, -1] -= 200
    exact = percent(computed(model, test))
    after = percent(gives(secateur.quantize(model, x).content, test))
    training = QuantizedTraining(model, x)
    train(30)
    trained_so = percent(computed(model, test))
    file = percent(gives(training.finish(x).content, test))
    assert exact > 80
    assert after < 20
    assert file > 70
    assert file == pytest.approx(trained_so, abs=0.6)
