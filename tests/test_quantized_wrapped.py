"""Training in 8 bit inside what others wrap around modules, and across checkpoints."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import secateur
from secateur import QuantizedTraining
from trained_in_8_bit import away, computed, gives, images, small, trained

pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch's, of its own doing
def test_compiled_modules_compute_the_same_and_are_compiled_once() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    twin = copy.deepcopy(model)
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    for _ in range(4):
        assert torch.equal(compiled(x), twin(x))
    assert len(compilations) == 1
    assert training.state_dict().keys() == QuantizedTraining.of(twin).state_dict().keys()


def _wrapped(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def _in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def _part_wrapped(model: nn.Module) -> nn.Module:
    model.set_submodule("4", _wrapped(model.get_submodule("4")))
    return model


def _part_in_place(model: nn.Module) -> nn.Module:
    _in_place(model.get_submodule("4"))
    return model


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # torch's, of its own doing
@pytest.mark.filterwarnings("ignore:.*grad attribute of a Tensor that is not a leaf")  # as well
@pytest.mark.parametrize("made", [_wrapped, _in_place, _part_wrapped, _part_in_place])
def test_a_module_that_ran_compiled_is_trained_in_8_bit_all_the_same(
    made: Callable[[nn.Module], nn.Module],
) -> None:
    x = images()
    plain, model = small(), made(small())
    assert torch.equal(plain(x), model(x))
    other, training = QuantizedTraining(plain, x), QuantizedTraining(model, x)
    assert training.layers == other.layers
    for one in (plain, model):
        trained(one, x, 2)
    assert training.state_dict().keys() == other.state_dict().keys()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(training.state_dict()[key], value)
    wanted = computed(model, x)
    assert away(wanted, computed(plain, x)) < 1e-3
    assert away(gives(training.finish(x).content, x), wanted) < 5e-3
    other.remove()
    assert away(computed(model, x), computed(plain, x)) < 1e-3


@pytest.mark.filterwarnings("ignore:.*destroy_process_group")
def test_it_looks_through_the_wrapper_of_distributed_training(tmp_path: Path) -> None:
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        x = images()
        for late in (False, True):  # attached before it is wrapped, or behind
            model = small()
            parallel = nn.parallel.DistributedDataParallel(model) if late else model
            training = QuantizedTraining(parallel, x)
            assert training.layers == ("0", "4", "7")
            parallel = parallel if late else nn.parallel.DistributedDataParallel(model)
            trained(parallel, x)
            wanted = computed(parallel, x)
            made = QuantizedTraining.of(parallel).finish(x)
            assert away(gives(made.content, x), wanted) < 5e-3
    finally:
        torch.distributed.destroy_process_group()


def test_a_checkpoint_goes_on_to_the_same_file() -> None:
    model, x = small(), images()
    training = QuantizedTraining(model, x)
    trained(model, x, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "ranges": training.state_dict()}, file)
    file.seek(0)
    other = small()
    again = QuantizedTraining(other, x[:8])
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["ranges"])
    assert np.array_equal(computed(other.eval(), x), computed(model, x))
    for one in (model, other):
        trained(one, x, 2)
    assert again.finish(x).content == training.finish(x).content


def test_a_pass_that_is_run_again_for_its_gradients_moves_no_range() -> None:
    class Lean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.head = nn.Linear(4 * 36, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(self.body, x, use_reentrant=False)
            out: Tensor = self.head(y.flatten(1))
            return out

    model, x = Lean(), images()
    training = QuantizedTraining(model, x)
    trained(model, x, 3)
    assert [float(ends[2]) for ends in training.state_dict().values()] == [4, 4]


def test_a_call_that_is_run_again_is_not_taken_for_another_of_its_layer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(self.layer, x, use_reentrant=False)
            out: Tensor = self.layer(100 + y)
            return out

    torch.manual_seed(0)
    model, x = Twice(), torch.rand(16, 8)
    training = QuantizedTraining(model, x)
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    ends = sorted(float(value[1]) for value in training.state_dict().values())
    assert ends[0] < 1
    assert ends[-1] > 100


def test_what_is_around_in_autocast_changes_neither_match_nor_file() -> None:
    model, x = small(), images()
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        training = QuantizedTraining(model, x)
        trained(model, x)
        made = training.finish(x)
    assert made.int8 == ("/0/Conv", "/4/Conv", "/7/Gemm")
    with torch.autocast("cpu", torch.bfloat16):
        found = secateur.quantize(twin.eval(), x)
    assert found.content == secateur.quantize(twin, x).content
