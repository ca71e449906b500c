"""Models with PEFT adapters: the base is cut, and merging keeps its zeros."""

from __future__ import annotations

import importlib.util
import warnings
from types import ModuleType

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import UsageError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install peft"
)


def library() -> ModuleType:
    """Import peft, which takes seconds, where a test needs it, and not wherever tests are found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft

        return peft


@pytest.fixture
def tuned() -> nn.Module:
    """A small BERT with adapters of which nothing is zero, and a head that PEFT trains whole."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    peft, transformers = library(), pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=40, intermediate_size=24, **sizes)
    lora = peft.LoraConfig(
        r=2,
        target_modules=["query", "dense"],
        modules_to_save=["classifier"],
        init_lora_weights=False,
        exclude_modules=["bert.pooler.dense"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.BertForSequenceClassification(config)
        return peft.get_peft_model(model, lora).eval()


def zeros(model: nn.Module, masks: secateur.Masks) -> bool:
    own = dict(model.named_parameters())
    return all(not own[name][~mask].any() for name, mask in masks.items())


BATCH = {"input_ids": torch.arange(40).view(40, 1).expand(40, 6) % 40}


def test_the_base_is_cut_and_adapters_stay(tuned: nn.Module) -> None:
    before = {name: p.clone() for name, p in tuned.named_parameters()}
    pruned, result = secateur.prune(tuned, 0.5)
    assert type(pruned) is type(tuned)
    base = "base_model.model.bert.encoder.layer.0.attention.self"
    assert {f"{base}.query.base_layer.weight", f"{base}.key.weight"} <= set(result.masks)
    assert result.excluded[f"{base}.query.lora_A.default.weight"] == "of an adapter"
    head = "base_model.model.classifier"
    assert f"{head}.modules_to_save.default.weight" in result.masks
    assert result.excluded[f"{head}.original_module.weight"] == "kept by PEFT beside a trained copy"
    assert any("base is cut" in note and "merge_adapters" in note for note in result.notes)
    for name, parameter in pruned.named_parameters():
        assert name in result.masks or torch.equal(parameter, before[name])
        assert parameter.requires_grad == tuned.get_parameter(name).requires_grad


def test_merging_keeps_the_zeros(tuned: nn.Module) -> None:
    pruned, result = secateur.prune(tuned, 0.5)
    merged, masks = secateur.merge_adapters(pruned, result.masks)
    assert type(merged).__name__ == "BertForSequenceClassification"
    assert masks.kept == result.masks.kept
    assert "classifier.weight" in masks
    assert zeros(merged, masks)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    # what is kept has the adapter in it
    name = "bert.encoder.layer.0.attention.self.query.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = tuned.merge_and_unload().get_parameter(name)
    assert torch.allclose(merged.get_parameter(name)[masks[name]], full[masks[name]])


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "obs"])
def test_criteria_that_look_at_data_see_the_base(tuned: nn.Module, criterion: str) -> None:
    data = {**BATCH, "labels": torch.arange(40) % 2}
    _, result = secateur.prune(tuned, 0.5, criterion=criterion, data=data)
    assert set(result.masks) == set(secateur.prune(tuned, 0.5)[1].masks)
    assert not tuned.get_parameter("base_model.model.bert.pooler.dense.weight").requires_grad


def test_what_cannot_be_cut_or_merged_is_one_error(tuned: nn.Module) -> None:
    masks = secateur.prune(tuned, 0.5)[1].masks
    tuned.merge_adapter()
    with pytest.raises(UsageError, match=r"adapter merged into its weight.*unmerge_adapter"):
        secateur.prune(tuned, 0.5)
    tuned.unmerge_adapter()
    with pytest.raises(UsageError, match="no adapters that can be merged"):
        secateur.merge_adapters(nn.Linear(2, 2), secateur.Masks({"weight": torch.ones(2, 2) > 0}))
    with pytest.raises(UsageError, match="no parameter"):
        secateur.merge_adapters(nn.Linear(2, 2), masks)


def test_adapters_without_the_wrapper_of_peft_are_merged_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    peft = library()
    lora = peft.LoraConfig(r=2, target_modules=["2"], init_lora_weights=False)
    model = peft.inject_adapter_in_model(lora, model)
    pruned, result = secateur.prune(model, 0.5)
    assert set(result.masks) == {"2.base_layer.weight", "4.weight"}
    merged, masks = secateur.merge_adapters(pruned, result.masks)
    assert set(masks) == {"2.weight", "4.weight"}
    assert zeros(merged, masks)
    assert type(merged[2]) is nn.Linear


def test_channels_of_adapters_are_cut_with_those_of_the_base(tuned: nn.Module) -> None:
    example = {"input_ids": torch.arange(6)[None]}
    pruned, result = secateur.prune(tuned, 0.5, pattern="channel", example=example)
    before = pruned(**example).logits
    merged, masks = secateur.merge_adapters(pruned, result.masks)
    assert result.macs.ratio < 0.7
    assert torch.allclose(merged(**example).logits, before, atol=1e-5)
    assert masks.keep == 1


def test_gates_of_a_frozen_base_are_refused_with_what_to_do(tuned: nn.Module) -> None:
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], 0.1)
    with pytest.raises(UsageError, match=r"base_layer.weight' is frozen .*merge_and_unload"):
        secateur.GateTraining(tuned, optimizer)
    merged = tuned.merge_and_unload()  # type: ignore[operator]
    merged.requires_grad_(True)
    optimizer = torch.optim.SGD(merged.parameters(), 0.1)
    gating = secateur.GateTraining(merged, optimizer)
    with gating.step():
        merged(input_ids=torch.ones(2, 5, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    assert gating.finish(secateur.Budget(0.5)).keep == pytest.approx(0.5, abs=1e-3)
