"""Folders of transformers' models: packed ones are built again, sharded and tied ones are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import secateur
from secateur.errors import FileError, UsageError


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    tied = {"tie_word_embeddings": True}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=30, hidden_size=16, intermediate_size=24, **sizes, **tied)
    )


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=8))


def same(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_folder_is_built_again(build: type, dtype: torch.dtype, tmp_path: Path) -> None:
    model, result = secateur.prune(build().to(dtype), 0.3)
    model.generation_config.max_length = 7
    secateur.save_pretrained(model, tmp_path, packed=True, masks=result.masks, card=result)
    again = secateur.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert same(model, again)
    assert again.dtype == dtype
    assert again.generation_config.max_length == 7
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.get_default_dtype() == torch.float32
    texts = torch.randint(30, (2, 5))
    assert torch.equal(again(input_ids=texts).logits, model.eval()(input_ids=texts).logits)


def test_sharded_and_tied_checkpoints_are_read(tmp_path: Path) -> None:
    model, _ = secateur.prune(llama(), 0.3)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    for given in (None, llama()):
        again = secateur.from_pretrained(tmp_path, given)
        assert same(model, again)
        assert again.lm_head.weight is again.model.embed_tokens.weight
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(FileError, match="model-00002"):
        secateur.from_pretrained(tmp_path)


def test_the_card_has_the_table_and_stays_where_there_is_one(tmp_path: Path) -> None:
    model, result = secateur.prune(llama(), 0.3)
    for folder, packed, says in (
        ("small", True, 'secateur.from_pretrained("FOLDER")'),
        ("dense", False, 'LlamaForCausalLM.from_pretrained("FOLDER")'),
    ):
        secateur.save_pretrained(model, tmp_path / folder, packed=packed, card=result)
        card = (tmp_path / folder / "README.md").read_text()
        assert repr(result) in card
        assert says in card
        assert card.startswith("---\nlibrary_name: ")
    (tmp_path / "small" / "README.md").write_text("mine")
    secateur.save_pretrained(model, tmp_path / "small", packed=True, card=result)
    assert (tmp_path / "small" / "README.md").read_text() == "mine"


def test_what_cannot_be_built_is_one_error(tmp_path: Path) -> None:
    secateur.save_pretrained(llama(), tmp_path, packed=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("os", "AutoModel", "NoSuchModel", "LlamaConfig"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
        with pytest.raises(UsageError, match=f"transformers has no model '{name}'.*build the"):
            secateur.from_pretrained(tmp_path)
    secateur.save_pretrained(nn.Linear(2, 2), tmp_path / "plain", packed=True)
    with pytest.raises(UsageError, match="holds values, but no code"):
        secateur.from_pretrained(tmp_path / "plain")
