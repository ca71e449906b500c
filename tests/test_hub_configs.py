"""A folder keeps what the model's own library needs to build it, packed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur import from_pretrained, save_pretrained

PACKED = "model.secateur.safetensors"


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("packed", [False, True])
def test_transformers_build_the_model_again(packed: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label={0: "no", 1: "yes", 2: "perhaps"},
    )
    model = transformers.BertForSequenceClassification(config)
    before = model.config.to_dict()
    pruned, result = secateur.prune(model, 0.5)
    (tmp_path / "tokenizer.json").write_text("{}")
    save_pretrained(pruned, tmp_path, packed=packed, masks=result.masks, config={"mine": 3})
    given = config_of(tmp_path)
    assert (given["model_type"], given["hidden_size"], given["mine"]) == ("bert", 32, 3)
    assert given["architectures"] == ["BertForSequenceClassification"]
    assert given["id2label"]["2"] == "perhaps"
    assert given["secateur"]["achieved"] == pytest.approx(0.5, abs=1e-3)
    assert (tmp_path / "tokenizer.json").read_text() == "{}"
    files = {path.name for path in tmp_path.iterdir()}
    assert (PACKED in files) == packed
    assert ("model.safetensors" in files) != packed
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    fresh = transformers.AutoModelForSequenceClassification.from_config(again)
    assert same(from_pretrained(tmp_path, fresh), pruned)
    assert model.config.to_dict() == before
    save_pretrained(pruned, tmp_path, packed=not packed)  # over the other form
    files = {path.name for path in tmp_path.iterdir()}
    assert ((PACKED in files), ("model.safetensors" in files)) == (not packed, packed)
    assert config_of(tmp_path)["hidden_size"] == 32


def test_how_it_generates_is_kept(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=96, n_positions=8, n_embd=32, n_layer=1, n_head=2,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip
    model.generation_config.max_new_tokens = 7
    save_pretrained(model, tmp_path, packed=True)
    given = json.loads((tmp_path / "generation_config.json").read_text())
    assert given["max_new_tokens"] == 7
    assert config_of(tmp_path)["n_embd"] == 32
    assert not list(tmp_path.glob("model.safetensors*"))


@pytest.mark.parametrize("packed", [False, True])
def test_the_mixin_of_huggingface_hub(packed: bool, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    class Mixed(nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc,name-defined]
        def __init__(self, width: int = 4, name: str = "a") -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)

    model = Mixed(width=12, name="b")
    (tmp_path / "README.md").write_text("my own card")
    save_pretrained(model, tmp_path, packed=packed)
    given = config_of(tmp_path)
    assert (given["width"], given["name"]) == (12, "b")
    assert (tmp_path / "README.md").read_text() == "my own card"
    assert same(from_pretrained(tmp_path, Mixed(width=12)), model)
    if not packed:
        assert same(Mixed.from_pretrained(tmp_path), model)


def test_models_with_a_way_or_a_config_of_their_own(tmp_path: Path) -> None:
    class Adapted(nn.Module):
        """As an adapter's library: several files, weights among them, and no config.json."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.config = {"width": 4}

        def save_pretrained(self, place: str) -> None:
            (Path(place) / "adapter_config.json").write_text('{"r": 8}')
            for name in ("adapter_model.safetensors", "pytorch_model.bin", "w.pt"):
                (Path(place) / name).write_bytes(b"weights")

    class Odd(nn.Linear):
        def save_pretrained(self, place: str, wanted: int) -> None:
            raise AssertionError

    model = Adapted()
    save_pretrained(model, tmp_path / "a", packed=True)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"config.json", PACKED, "adapter_config.json"}
    assert same(from_pretrained(tmp_path / "a", Adapted()), model)
    save_pretrained(Odd(2, 2), tmp_path / "b", packed=True)
    assert set(config_of(tmp_path / "b")) == {"secateur"}
    plain = nn.Linear(3, 2)
    plain.pretrained_cfg = {"architecture": "x"}
    save_pretrained(plain, tmp_path / "c", packed=True)
    assert set(config_of(tmp_path / "c")) == {"secateur"}


def test_folders_of_the_first_version_still_load(tmp_path: Path) -> None:
    """Their config.json had nothing but the section, whatever the model was."""
    model = nn.Linear(8, 8)
    save_pretrained(model, tmp_path, packed=True)
    section = config_of(tmp_path)["secateur"]
    (tmp_path / "config.json").write_text(json.dumps({"secateur": section}))
    assert same(from_pretrained(tmp_path, nn.Linear(8, 8)), model)
