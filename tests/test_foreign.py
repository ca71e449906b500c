"""Sparse checkpoints of other tools are read without them: files built from their description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS

import secateur
from secateur.errors import FileError, UsageError
from secateur.pruning.files.foreign import expanded

WEIGHT = torch.tensor(
    [[0, 1, 0, 2, 0, 0, 3, 0, 4, 0], [5, 0, 0, 0, 0, 0, 0, 0, 0, 6]], dtype=torch.float32
)
BITMASK: dict[str, Tensor] = {
    "shape": torch.tensor([2, 10]),
    "bitmask": torch.tensor([[0b01001010, 0b01], [0b00000001, 0b10]], dtype=torch.uint8),
    "compressed": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "row_offsets": torch.tensor([0, 4]),
}
HALF = torch.tensor([[0, 1, 0, 2, 0, 0, 3, 0], [5, 0, 0, 0, 0, 7, 0, 6]], dtype=torch.bfloat16)
TWO_OF_FOUR: dict[str, Tensor] = {
    "shape": torch.tensor([[2], [8]]),  # in two dimensions, as compressed-tensors writes it
    "bitmask": torch.tensor([[0b11001010], [0b10100101]], dtype=torch.uint8),
    "compressed": torch.tensor([[1, 2, 3, 0], [5, 0, 7, 6]], dtype=torch.bfloat16),
}


def stored(parts: Mapping[str, Tensor], name: str = "0.weight") -> dict[str, Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def folder_of(path: Path, state: Mapping[str, Tensor], **config: Any) -> Path:
    """Write a folder as llm-compressor does, which says in config.json how weights are stored."""
    section = {"quant_method": "compressed-tensors", "format": "dense", **config}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"quantization_config": section}))
    safetensors.torch.save_file(dict(state), path / "model.safetensors", {"format": "pt"})
    return path


def layer(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, rows, bias=False, dtype=dtype))


@pytest.mark.parametrize(
    ("parts", "weight"), [(BITMASK, WEIGHT), (TWO_OF_FOUR, HALF)], ids=["bitmask", "2:4"]
)
def test_a_folder_is_read(parts: dict[str, Tensor], weight: Tensor, tmp_path: Path) -> None:
    sparsity = {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"}
    folder = folder_of(tmp_path, stored(parts), sparsity_config=sparsity)
    model = secateur.from_pretrained(folder, layer(*weight.shape, weight.dtype))
    assert torch.equal(model.get_parameter("0.weight"), weight)
    state, masks = secateur.convert_state_dict(stored(parts))
    assert torch.equal(state["0.weight"], weight)
    assert list(state) == ["0.weight"]
    assert not weight[~masks["0.weight"]].any()
    assert masks.kept == parts["compressed"].numel()  # kept weights may be zero


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=11),
        elements=st.sampled_from([0.0, 1.0, -2.5]),
    )
)
def test_any_weight_comes_back(weight: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    kept = weight != 0
    rows = kept.reshape(-1, kept.shape[-1]).sum(1)
    parts = {
        "shape": torch.tensor(weight.shape),
        "bitmask": torch.from_numpy(np.packbits(kept, axis=-1, bitorder="little")),
        "compressed": torch.from_numpy(weight[kept]),
        "row_offsets": torch.from_numpy(np.cumsum(rows) - rows),
    }
    state, masks = expanded({**stored(parts, "w"), "other.bias": torch.ones(2)})
    assert torch.equal(state["w"], torch.from_numpy(weight))
    assert torch.equal(masks["w"], torch.from_numpy(kept))
    assert sorted(state) == ["other.bias", "w"]


WRONG: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "values missing": ({"compressed": None}, "'0.weight' has no '0.weight.compressed'"),
    "shape missing": ({"shape": None}, "'0.weight' has no '0.weight.shape'"),
    "too few values": ({"compressed": torch.ones(3)}, "keeps 6 weights, but there are 3"),
    "another shape": ({"shape": torch.tensor([2, 17])}, "bitmask of '0.weight' has shape"),
    "a huge shape": ({"shape": torch.tensor([2**40, 10])}, "bitmask of '0.weight' has shape"),
    "a negative shape": ({"shape": torch.tensor([2, -10])}, "bitmask of '0.weight' has shape"),
    "no shape": ({"shape": torch.zeros(0, dtype=torch.int64)}, "has shape"),
    "floats": ({"shape": torch.tensor([2.0, 10.0])}, "must be int64 and its bitmask uint8"),
    "bits beyond": (
        {"bitmask": torch.tensor([[74, 1], [1, 8]], dtype=torch.uint8)},
        "bits beyond its last column",
    ),
    "offsets": ({"row_offsets": torch.tensor([0, 5])}, "row offsets of '0.weight'"),
    "twice": ({"": WEIGHT}, "both '0.weight' and '0.weight.bitmask'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    change, words = WRONG[name]
    parts = {part: t for part, t in {**BITMASK, **change}.items() if t is not None}
    state = {key.removesuffix("."): tensor for key, tensor in stored(parts).items()}
    with pytest.raises(FileError, match=words):
        secateur.from_pretrained(folder_of(tmp_path, state), layer(2, 10))
    with pytest.raises(UsageError, match=words):
        secateur.convert_state_dict(state)


def test_a_layer_may_have_parameters_of_such_names() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bitmask = nn.Parameter(torch.ones(3))

    plain, masks = expanded(Masked().state_dict())
    assert list(plain) == ["bitmask"]
    assert not masks


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"config_groups": {"group_0": {}}, "format": "pack-quantized"}, "pack-quantized"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
    ],
)
def test_quantised_weights_are_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, stored(BITMASK), **config)
    with pytest.raises(FileError, match=rf"quantised \(.*{words}.*before it was quantised"):
        secateur.from_pretrained(folder, layer(2, 10))


def test_a_model_of_transformers_is_built_and_forgets_how_it_was_stored(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=8,
    )  # fmt: skip
    pruned, _ = secateur.prune(transformers.BertModel(config), pattern="2:4")
    pruned.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name in [name for name in state if name.endswith("query.weight")]:
        weight = state.pop(name)
        bits = np.packbits((weight != 0).numpy(), axis=-1, bitorder="little")
        state[f"{name}.shape"] = torch.tensor(weight.shape)
        state[f"{name}.bitmask"] = torch.from_numpy(bits)
        state[f"{name}.compressed"] = weight[weight != 0].reshape(len(weight), -1)
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    written = json.loads((tmp_path / "config.json").read_text())
    written["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"},
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    model = secateur.from_pretrained(tmp_path)
    theirs = pruned.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert "quantization_config" not in model.config.to_dict()  # type: ignore[operator,union-attr]


# What torch and torchao hold in memory.

KEPT = 0.5 * torch.arange(1, 33 * 32 + 1, dtype=torch.float16)[: 32 * 32].reshape(32, 32) % 97


def semi_structured() -> SparseSemiStructuredTensorCUTLASS:
    """Return a weight of 32 x 64 whose first and third of every four are kept, as torch packs it.

    The metadata has two bits for each kept weight, its place: 0b1000 for places 0 and 2, so 0x8888
    for the eight of a row that one number holds, in any order of rows and columns.
    """
    meta = torch.full((32, 4), 0x8888 - 2**16, dtype=torch.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *told, **more: None)  # that it is a prototype
        return SparseSemiStructuredTensorCUTLASS(
            torch.Size((32, 64)),
            packed=KEPT,
            meta=meta,
            packed_t=None,
            meta_t=None,
            compressed_swizzled_bitmask=None,
        )


def test_weights_of_torchao_become_plain() -> None:
    state = {"0.weight": semi_structured(), "0.bias": torch.ones(32)}
    plain, masks = secateur.convert_state_dict(state)
    weight = plain["0.weight"]
    assert type(weight) is Tensor
    assert torch.equal(weight[:, 0::4], KEPT[:, 0::2])
    assert torch.equal(weight[:, 2::4], KEPT[:, 1::2])
    assert not weight[:, 1::2].any()
    assert masks["0.weight"].sum() == KEPT.count_nonzero()
    assert plain["0.bias"] is state["0.bias"]


def test_models_of_such_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 32))
    model[1].weight = nn.Parameter(semi_structured(), requires_grad=False)
    words = r"'1.weight' is a SparseSemi.*convert_state_dict"
    with pytest.raises(UsageError, match=words):
        secateur.prune(model, 0.5)
    with pytest.raises(UsageError, match=words):
        secateur.save(model, tmp_path / "model.safetensors")
    state, _ = secateur.convert_state_dict(model.state_dict())
    fresh = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 32))
    fresh.load_state_dict(state)
    assert int(fresh[1].weight.count_nonzero()) == int(KEPT.count_nonzero())
