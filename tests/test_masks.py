"""Masks: a frozen value that is applied, held, compared, saved and loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from secateur import Budget, Masks, prunable, select
from secateur.errors import FileError, UsageError
from secateur.pruning.criteria import CRITERIA


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3))


@pytest.fixture
def masks(model: nn.Module) -> Masks:
    return select(CRITERIA["magnitude"].scores(model, prunable(model).names), Budget(0.25))


def zeros(model: nn.Module, masks: Masks) -> bool:
    return all(bool((model.get_parameter(n)[~m] == 0).all()) for n, m in masks.items())


def test_counts() -> None:
    masks = Masks(
        {
            "b": torch.tensor([[True, False, True]]),
            "a": torch.zeros(2, 2, dtype=torch.bool),
            "c": torch.zeros(0, dtype=torch.bool),
            "d": torch.tensor(True),
        }
    )
    assert list(masks) == ["a", "b", "c", "d"]
    assert masks.layers == {"a": (0, 4), "b": (2, 3), "c": (0, 0), "d": (1, 1)}
    assert (masks.kept, masks.total, masks.keep) == (3, 8, 0.375)
    assert masks.emptied == ("a",)
    assert "3 of 8" in repr(masks)


def test_apply_cuts_in_place_and_touches_nothing_else(model: nn.Module, masks: Masks) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]
    masks.apply(model)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert list(model.state_dict()) == list(before)
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)


def test_apply_cuts_even_what_is_not_finite() -> None:
    linear = nn.Linear(3, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[float("nan"), -1.0, float("inf")]]))
    Masks({"weight": torch.zeros(1, 3, dtype=torch.bool)}).apply(linear)
    assert linear.weight.tolist() == [[0.0, 0.0, 0.0]]
    assert not torch.signbit(linear.weight).any()


def test_masks_of_another_model_are_refused_before_anything_changes(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    good, bad = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(3, 9, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"'3\.weight' has shape \(3, 9\).*\(3, 8\)"):
        Masks({"2.weight": good, "3.weight": bad}).apply(model)
    with pytest.raises(UsageError, match=r"no parameter '9\.weight'"):
        Masks({"2.weight": good, "9.weight": good}).hold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("wrap", ["plain", "compiled", "data parallel", "copied"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_held_masks_survive_training(
    model: nn.Module, masks: Masks, wrap: str, optimizer: str
) -> None:
    keys = list(model.state_dict())
    masks.apply(model)
    run = {
        "plain": lambda: model,
        "compiled": lambda: torch.compile(model, backend="eager"),
        "data parallel": lambda: nn.DataParallel(model),
        "copied": lambda: copy.deepcopy(model),
    }[wrap]()
    average = AveragedModel(run, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    update = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.1, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    }[optimizer](run.parameters())
    before = copy.deepcopy(run.state_dict())
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        run(torch.randn(9, 6, generator=generator)).square().sum().backward()
        update.step()
        update.zero_grad()
        masks.hold(run)
        average.update_parameters(run)
    trained = run.module if wrap == "data parallel" else run
    assert zeros(trained, masks)
    masks.hold(average)
    assert not any(torch.equal(v, before[n]) for n, v in run.state_dict().items() if "weight" in n)
    if wrap == "plain":
        assert list(model.state_dict()) == keys
        assert zeros(average.module, masks)


def test_tied_weights_are_cut_once() -> None:
    tied = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    tied["b"].weight = tied["a"].weight
    scores = CRITERIA["magnitude"].scores(tied, ["a.weight"])
    select(scores, Budget(1 / 3)).apply(tied)
    assert int((tied["b"].weight != 0).sum()) == 3


def test_equality_and_nesting() -> None:
    one = Masks({"a": torch.tensor([True, False, True]), "b": torch.tensor([[False]])})
    same = Masks({"b": torch.tensor([[False]]), "a": torch.tensor([True, False, True])})
    less = Masks({"a": torch.tensor([True, False, False]), "b": torch.tensor([[False]])})
    other = Masks({"a": torch.tensor([False, True, False]), "b": torch.tensor([[False]])})
    assert one == same
    assert hash(one) == hash(same)
    assert one != less
    assert one != {"a": 1}
    assert one.to("cpu") == one
    assert less.nested_in(one)
    assert one.nested_in(one)
    assert not one.nested_in(less)
    assert not other.nested_in(one)
    with pytest.raises(UsageError, match="different models"):
        one.nested_in(Masks({"a": torch.tensor([True])}))


def test_only_bool_tensors_are_masks() -> None:
    with pytest.raises(UsageError, match="no masks"):
        Masks({})
    with pytest.raises(UsageError, match=r"'a' must be a bool tensor, but is torch\.float32"):
        Masks({"a": torch.ones(3)})
    with pytest.raises(UsageError, match="but is list"):
        Masks({"a": [True]})  # type: ignore[dict-item]


def test_digests_are_the_same_on_every_machine() -> None:
    bits = torch.arange(24).view(2, 3, 2, 2) % 3 == 0
    masks = Masks({"b": bits, "a": torch.tensor(True)})
    assert masks.digest() == "65338a8dd5b254553070e35fda1a56a0ab7ba75f6f88609ce5f1f0ef0cf203d6"
    channels_last = bits.to(memory_format=torch.channels_last)
    assert Masks({"b": channels_last, "a": torch.tensor(True)}).digest() == masks.digest()
    assert Masks({"b": bits.view(3, 8), "a": torch.tensor(True)}).digest() != masks.digest()
    assert Masks({"c": bits, "a": torch.tensor(True)}).digest() != masks.digest()
    assert Masks({"b": ~bits, "a": torch.tensor(True)}).digest() != masks.digest()


SHAPES = st.lists(st.integers(0, 5), max_size=4)


@given(
    shapes=st.dictionaries(st.text(max_size=8), SHAPES, min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_saved_masks_come_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    generator = torch.Generator().manual_seed(seed)
    masks = Masks(
        {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()}
    )
    masks.save(path)
    assert Masks.load(path) == masks


def test_a_saved_mask_takes_a_bit_a_weight(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    Masks({"w": torch.rand(100, 1000) < 0.5}).save(path)
    assert path.stat().st_size < 100_000 / 8 + 500
    assert list(tmp_path.iterdir()) == [path]


def test_every_truncated_or_flipped_file_is_refused(masks: Masks, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    masks.save(path)
    good = path.read_bytes()
    for size in range(0, len(good), 7):
        path.write_bytes(good[:size])
        with pytest.raises(FileError):
            Masks.load(path)
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            loaded = Masks.load(path)
        except FileError:
            continue
        assert loaded == masks  # the padding of the header holds nothing


def hostile(shapes: str, **change: str) -> bytes:
    metadata = {"format": "secateur masks 1", "shapes": shapes, "digest": "0"} | change
    return safetensors.numpy.save({"w": np.zeros(2, np.uint8)}, metadata)


@pytest.mark.parametrize(
    "content",
    [
        hostile('{"w": [1000000000000]}'),
        hostile('{"w": [-4, -4]}'),
        hostile('{"w": [0, 99999999999999999999999]}'),
        hostile('{"w": [2.0, 8]}'),
        hostile('{"w": [true, 16]}'),
        hostile('{"w": 16}'),
        hostile('{"w": null}'),
        hostile('{"v": [16]}'),
        hostile("[16]"),
        hostile("[" * 100_000),
        hostile("not json"),
        hostile('{"w": [16]}'),  # a wrong digest
        hostile(json.dumps({"w": [16] + [1] * 100})),
        hostile('{"w": [16]}', format="other"),
        safetensors.numpy.save({"w": np.zeros(2, np.uint8)}),
        safetensors.numpy.save({"w": np.zeros(2, np.float32)}, {"format": "secateur masks 1"}),
        safetensors.torch.save(
            {"w": torch.zeros(2, dtype=torch.bfloat16)}, {"format": "secateur masks 1"}
        ),
        b"\xff" * 64,
        b"",
    ],
)
def test_hostile_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"masks\.safetensors"):
        Masks.load(path)


def test_missing_files_and_folders_are_refused(masks: Masks, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileError, match="cannot read"):
            Masks.load(path)
    with pytest.raises(FileError, match="cannot write"):
        masks.save(tmp_path / "no folder" / "masks.safetensors")
