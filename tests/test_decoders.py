"""Decoders of transformers, made from small configs: criteria, repair, channels, compiling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.model.inputs import run, tensors_in
from secateur.model.modes import without_cache

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IDS = torch.randint(3, 96, (64, 12), generator=torch.Generator().manual_seed(0))
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    **ENDS,
}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=96, n_positions=16, n_embd=32, n_layer=1, n_head=4, **ENDS
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model


def llama() -> nn.Module:
    config = transformers.LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2)
    model: nn.Module = transformers.LlamaForCausalLM(config)
    return model


def mistral() -> nn.Module:
    config = transformers.MistralConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2, sliding_window=4
    )
    model: nn.Module = transformers.MistralForCausalLM(config)
    return model


def bloom() -> nn.Module:
    config = transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=1, n_head=4, **ENDS)
    model: nn.Module = transformers.BloomForCausalLM(config)
    return model


def xlnet() -> nn.Module:
    config = transformers.XLNetConfig(
        vocab_size=96, d_model=32, n_layer=1, n_head=4, d_inner=48, **ENDS
    )
    model: nn.Module = transformers.XLNetLMHeadModel(config)
    return model


def t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model: nn.Module = transformers.T5ForConditionalGeneration(config)
    return model


def example_of(make: Callable[[], nn.Module]) -> Any:
    return {"input_ids": IDS[:2], "decoder_input_ids": IDS[:2, :5]} if make is t5 else IDS[:2]


def with_linears(model: nn.Module) -> nn.Module:
    """Return the same network with nn.Linear in place of every Conv1D."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Conv1D":
                linear = nn.Linear(*child.weight.shape)
                with torch.no_grad():
                    linear.weight.copy_(child.weight.T)
                    linear.bias.copy_(child.bias)
                setattr(module, name, linear)
    return twin


def transposed(name: str) -> bool:
    return any(part in name for part in ("c_attn", "c_proj", "c_fc"))


def loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "wanda"},
        {"criterion": "taylor", "loss": loss},
        {"criterion": "obs", "loss": loss},
        {"criterion": "magnitude", "recover": "reconstruct"},
        {"criterion": "wanda", "recover": "reconstruct"},
        {"criterion": "wanda", "pattern": "2:4"},
    ],
)
def test_conv1d_is_the_linear_layer_that_it_is(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = gpt2().eval()
    twin = with_linears(model)
    data = [(IDS, IDS)] if "loss" in options else [(IDS,)]
    keep = None if "pattern" in options else 0.5
    # of equal scores the first position is kept, and the two have positions in other orders
    plan, twins = (secateur.prunable(m, include_first=True) for m in (model, twin))
    ours, one = secateur.prune(model, keep, data=data, plan=plan, **options)
    theirs, other = secateur.prune(twin, keep, data=data, plan=twins, **options)
    assert one.recovery == other.recovery
    assert not [note for note in one.notes if "not reconstructed" in note]
    for name, mask in one.masks.items():
        wanted = other.masks[name]
        assert torch.equal(mask, wanted.T if transposed(name) else wanted), name
        weight, want = ours.get_parameter(name), theirs.get_parameter(name)
        assert torch.allclose(weight, want.T if transposed(name) else want, atol=1e-4), name
    with torch.no_grad():
        assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-4)
        if "recover" in options:
            plain, _ = secateur.prune(
                model, 0.5, data=data, plan=plan, **{**options, "recover": "none"}
            )
            dense = model(IDS).logits
            assert (ours(IDS).logits - dense).norm() < (plain(IDS).logits - dense).norm()


@pytest.mark.parametrize("make", [gpt2, llama, mistral, bloom, xlnet, t5])
def test_they_compile_without_their_cache(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, example = make().eval(), example_of(make)
    keeps = "use_mems_eval" if make is xlnet else "use_cache"
    held = [getattr(m.config, keeps, None) for m in model.modules() if hasattr(m, "config")]
    engine = secateur.compile(model, example)
    after = [getattr(m.config, keeps, None) for m in model.modules() if hasattr(m, "config")]
    assert held == after
    assert True in after
    with torch.no_grad(), without_cache(model):
        want = [tensor.numpy() for tensor in tensors_in(run(model, example))]
    flat = [tensor.numpy() for tensor in tensors_in(example)]
    got = engine(*flat)
    got = got if isinstance(got, tuple) else (got,)
    assert got[0].shape[-1] == 96
    for one, other in zip(got, want, strict=True):
        assert np.allclose(one, other, atol=1e-4)


def test_the_cache_comes_back_when_the_export_fails() -> None:
    model = gpt2()

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    model.register_forward_hook(fail)
    with pytest.raises(secateur.SecateurError, match="on purpose"):
        secateur.compile(model, IDS[:2])
    assert model.config.use_cache is True


def test_channels_and_goals_of_a_decoder() -> None:
    torch.manual_seed(0)
    model = gpt2().eval()
    small, result = secateur.prune(model, 0.5, pattern="channel", example=IDS[:2])
    assert not [note for note in result.notes if "was not made smaller" in note]
    assert small.transformer.h[0].mlp.c_fc.weight.shape[1] == 64
    engine = secateur.compile(small, IDS[:2])
    with torch.no_grad():
        want = small(IDS[:2]).logits.numpy()
    assert np.allclose(engine(IDS[:2].numpy()), want, atol=1e-4)
    _, found = secateur.prune(model, goal=secateur.Goal(latency_ms=1e6), example=IDS[:1])
    assert found.achieved == 1


def test_a_mask_that_is_given_is_an_input() -> None:
    torch.manual_seed(0)
    model = gpt2().eval()
    mask = torch.ones_like(IDS[:2])
    mask[0, :4] = 0
    batch = {"input_ids": IDS[:2], "attention_mask": mask}
    engine = secateur.compile(model, batch)
    assert [port["name"] for port in engine.info["inputs"]] == list(batch)
    with torch.no_grad():
        want = model(**batch).logits.numpy()
    got = engine({name: tensor.numpy() for name, tensor in batch.items()})
    assert np.allclose(got[:, 4:], want[:, 4:], atol=1e-4)
