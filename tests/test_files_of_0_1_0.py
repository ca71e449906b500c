"""Files that secateur 0.1.0 wrote are read to the bit: masks, models, stages, folders, engines."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from secateur import Budget, Gates, Masks, from_pretrained, load, load_masks, read
from secateur.compiler import artifact
from secateur.files import MODEL, format_of
from secateur.pruning.files import stage_file
from secateur.pruning.files.reading import read_info
from secateur.terminal.inspection import inspection

DATA = Path(__file__).parent / "data" / "files-0.1.0"
BUDGET = Budget(0.3, ("conv.*", "table.*"), 0.01, "weight", {"table.*": 0.5})
NOTES = {"seed": 3, "naïve": [1.5, None, True, {"a": -(10**30)}]}


def mask(*shape: int, keep: int = 30) -> Tensor:
    count = int(np.prod(shape))
    return (torch.arange(count) * 29 % 101 < keep).reshape(shape)


def numbers(*shape: int) -> Tensor:
    count = int(np.prod(shape))
    return ((torch.arange(count) * 37 % 113 - 50.5) / 16).reshape(shape)


MASKS = {
    "conv.weight": mask(8, 3, 3, 3, keep=7),
    "table.weight": mask(10, 8, keep=50),
}


class Net(nn.Module):
    """One tensor of each form: gaps, bits, dense; one tied, one without elements, a scalar."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.table = nn.Embedding(10, width)
        self.head = nn.Linear(width, 10, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("empty", torch.zeros(0, 3))


def net() -> Net:
    model = Net()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(numbers(*tensor.shape))
        Masks(MASKS).apply(model)
        model.conv.weight[mask(8, 3, 3, 3, keep=1)] = -0.0  # the first one, and another
        model.norm.bias[:3] = torch.tensor([float("nan"), float("inf"), 1e-42])
    return model


def bits(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        n: (t.dtype, tuple(t.shape), t.reshape(-1).contiguous().view(torch.uint8).tolist())
        for n, t in state.items()
    }


def test_masks() -> None:
    masks = Masks.load(DATA / "masks.safetensors")
    more = {"scalar": torch.tensor(True), "empty": torch.zeros(0, 3, dtype=torch.bool)}
    assert masks == Masks({**MASKS, **more})
    assert masks.digest() == "e92966383d605eba8641e0eb24cde33b68cc2b20e4f692ca9f62849cd5a9f5d3"


def test_a_model() -> None:
    path = DATA / "model.safetensors"
    state, info = read(path)
    assert bits(state) == bits(net().state_dict())
    assert list(state) == list(net().state_dict())
    assert state["head.weight"] is state["table.weight"]
    assert {stored.form for stored in info.tensors} == {"dense", "bits", "gaps"}
    assert [stored.name for stored in info.tensors if stored.masked] == [
        "conv.weight",
        "table.weight",
    ]
    assert [stored.name for stored in info.tensors if stored.tied] == ["head.weight"]
    assert info == read_info(path)
    assert info.budget == BUDGET
    assert info.architecture == ("mypackage.nets:net", {"width": 8})
    assert info.provenance == NOTES
    assert info.versions["secateur"] == "0.1.0"
    assert load_masks(path) == Masks(MASKS)
    loaded = load(path, factory=Net)
    assert bits(loaded.state_dict()) == bits(net().state_dict())


def test_a_model_in_sixteen_bits_with_gates() -> None:
    model = load(DATA / "small.safetensors", Net())
    gates = Gates.of(model).values()
    assert list(gates) == ["conv.weight"]
    assert torch.equal(gates["conv.weight"], numbers(8, 3, 3, 3) / 3)
    assert torch.equal(model.conv.weight, net().conv.weight.bfloat16().float())
    assert torch.equal(model.norm.weight, net().norm.weight)
    assert read_info(DATA / "small.safetensors").budget is None


STAGES: dict[str, dict[str, Any]] = {
    "plain": {"stage": "plain", "gates": {}, "masks": {}},
    "gates": {
        "stage": "gates",
        "gates": {
            "number": 7,
            "square": 0.1,
            "averaged": 3,
            "gates": {"conv.weight": numbers(2, 3) / 3, "table.weight": numbers(4)},
            "momentum": {"conv.weight": numbers(2, 3) / 7},
            "order": {"table.weight": numbers(4) / 9},
        },
        "masks": {},
    },
    "held": {"stage": "held", "gates": {}, "masks": MASKS},
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage(stage: str) -> None:
    state = {name: part for name, part in STAGES[stage].items() if name != "stage"}
    found = stage_file.read(DATA / f"stage-{stage}.safetensors")
    assert found.pop("stage") == stage
    torch.testing.assert_close(found, state, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["packed", "dense"])
def test_a_folder(form: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / f"folder-{form}", tmp_path / form))
    model = from_pretrained(folder, Net())
    assert bits(model.state_dict()) == bits(net().state_dict())


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.safetensors")), ids=lambda path: path.name)
def test_all_of_them_are_shown(path: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(inspection(path))
    text = console.export_text()
    for name in read_info(path).tensors if format_of(path) == MODEL else ():
        assert name.name in text
    assert f"{path.stat().st_size:,} bytes on disk" in text


def test_an_engine() -> None:
    """Its library is not one: what is tried is reading what an engine says of itself."""
    info = artifact.read(DATA / "engine.so")
    assert (info.target, info.system, info.lanes) == ("native", "linux", 16)
    assert info.bytes == (DATA / "engine.so").stat().st_size
    network = info.network
    assert (network["name"], network["secateur"], network["batched"]) == ("linear", "0.1.0", True)
    assert network["inputs"] == [{"name": "x", "dtype": "float32", "shape": [3]}]
    assert network["outputs"] == [{"name": "y", "dtype": "float32", "shape": [4]}]
    assert artifact.is_engine(DATA / "engine.so")
