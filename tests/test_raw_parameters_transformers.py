"""Raw parameters of transformers' architectures: what is cut, what is whole, and which way."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Budget, prunable, prune
from secateur.pruning.contractions import uses_of

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
WINDOWS = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1],
    "num_heads": [2],
    "window_size": 4,
}
STATES = {"vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 1}

EXPERTS: dict[str, tuple[Mapping[str, Any], int | None, int]] = {
    "Mixtral": ({"num_local_experts": 4}, -1, -1),
    "Qwen2Moe": ({"num_experts": 4, "shared_expert_intermediate_size": 24}, -1, -1),
    "Qwen3Moe": ({"num_experts": 4}, -1, -1),
    "Olmoe": ({"num_experts": 4}, -1, -1),
    "GraniteMoe": ({"num_local_experts": 4}, -1, -1),
    "DeepseekV2": (LATENT, -1, -1),
    "DeepseekV3": (LATENT, -1, -1),
    "GptOss": ({"num_local_experts": 4}, -2, -2),
    "Llama4Text": ({"num_local_experts": 4, "interleave_moe_layer_step": 1}, None, -2),
    "JetMoe": ({"num_local_experts": 4, "kv_channels": 8}, None, -1),
}
"""Model → what its config needs beside TEXT, the axis that is known, and the one that is seen."""

TABLES: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "Mixtral": (TEXT | {"num_local_experts": 4}, {"gate.weight": "router"}),
    "Phimoe": (TEXT | {"num_local_experts": 4}, {"router.weight": "router"}),
    "JetMoe": (
        TEXT | {"num_local_experts": 4, "kv_channels": 8},
        {"router.layer.weight": "router"},
    ),
    "GptOss": (
        TEXT | {"num_local_experts": 4},
        {
            "router.weight": "router",
            "gate_up_proj_bias": "bias or norm",
            "down_proj_bias": "bias or norm",
            "sinks": "bias or norm",
        },
    ),
    "Qwen2Moe": (
        TEXT | {"num_experts": 4, "shared_expert_intermediate_size": 24},
        {"mlp.gate.weight": "router", "shared_expert_gate.weight": "router"},
    ),
    "HunYuanMoEV1": (
        TEXT | {"num_experts": 4, "moe_topk": 2},
        {"gate.wg.weight": "router"},
    ),
    "Doge": (
        TEXT | {"is_moe": True, "num_experts": 16},
        {"mlp.router_gate.weight": "router"},
    ),
    "ViT": (
        VISION,
        {
            "position_embeddings": "position table",
            "cls_token": "a vector: one scale or token",
        },
    ),
    "Beit": (
        VISION | {"use_relative_position_bias": True, "use_absolute_position_embeddings": True},
        {
            "relative_position_bias_table": "position table",
            "position_embeddings": "position table",
            "lambda_1": "bias or norm",
        },
    ),
    "Dinov2WithRegisters": (
        VISION,
        {"position_embeddings": "position table", "register_tokens": "token or query"},
    ),
    "CLIPVision": (VISION, {"position_embedding.weight": "embedding table"}),
    "SamVision": (
        VISION | {"output_channels": 8, "window_size": 2, "mlp_dim": 48},
        {
            "pos_embed": "position table",
            "rel_pos_h": "position table",
            "rel_pos_w": "position table",
        },
    ),
    "Swin": (WINDOWS, {"relative_position_bias_table": "position table"}),
    "Swinv2": (WINDOWS, {"logit_scale": "a vector: one scale or token"}),
    "Levit": (
        {
            "image_size": 64,
            "patch_size": 16,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        {"stages.0.layers.0.module.attention_biases": "bias or norm"},
    ),
    "Mamba": (STATES, {"A_log": "state-space constant", "mixer.D": "bias or norm"}),
    "FalconMamba": (STATES, {"A_log": "state-space constant"}),
    "XLNet": (
        {"vocab_size": 64, "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 48},
        {
            "r_w_bias": "bias or norm",
            "seg_embed": "embedding table",
            "rel_attn.r": "not known to be a weight",
        },
    ),
    "RecurrentGemma": (
        TEXT | {"num_hidden_layers": 3, "lru_width": 32},
        {"input_gate_bias": "bias or norm", "recurrent_gate_bias": "bias or norm"},
    ),
    "T5": (
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
        {"relative_attention_bias.weight": "embedding table"},
    ),
}
"""Model → its config, and endings of names with the reasons why those stay whole."""

CUT = {
    "XLNet": ("rel_attn.q", "rel_attn.o"),
    "RecurrentGemma": ("input_gate_weight", "recurrent_gate_weight", "gate_proj.weight"),
    "Mamba": ("in_proj.weight", "x_proj.weight", "dt_proj.weight"),
    "Swin": ("q_proj.weight", "fc1.weight"),
    "Qwen2Moe": ("experts.gate_up_proj", "shared_expert.gate_proj.weight"),
    "GptOss": ("experts.gate_up_proj", "experts.down_proj", "q_proj.weight"),
}
"""Model → endings of names that are cut."""


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("transformers")
    if package.__version__ < "5" or not hasattr(package, f"{name}Config"):
        pytest.skip(f"transformers {package.__version__} has {name} in another form, or not")
    torch.manual_seed(0)
    model: nn.Module = package.AutoModel.from_config(getattr(package, f"{name}Config")(**config))
    return model.eval()


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_cut_along_their_inputs(name: str) -> None:
    extra, known, seen = EXPERTS[name]
    model = build(name, TEXT | extra)
    found = {n: p for n, p in model.named_parameters() if p.dim() == 3}
    assert len(found) >= 2
    plan = prunable(model)
    assert {plan.axes[n] for n in found} == {known}
    example = {"input_ids": torch.arange(3, 21).reshape(2, 9)}
    # what a model says of its experts is what it does with them
    assert set(uses_of(model, list(found), example).axes.values()) == {seen}
    for given in (None, example):
        pruned, result = prune(model, pattern="2:4", example=given)
        for n in found:
            kept = (pruned.get_parameter(n) != 0).movedim(seen, -1).unflatten(-1, (-1, 4)).sum(-1)
            if known is None and given is None:
                assert bool((kept == 4).all())
                assert result.excluded[n].startswith("which dimension counts inputs is not known")
            else:
                assert bool((kept == 2).all())
    pruned, result = prune(model, Budget(0.5, floor=0, pattern="1x4"), example=example)
    for n in found:
        groups = (pruned.get_parameter(n) != 0).movedim(seen, -1).unflatten(-1, (-1, 4)).sum(-1)
        assert set(groups.unique().tolist()) <= {0, 4}
        assert result.masks.layers[n][0] < result.masks.layers[n][1]


@pytest.mark.parametrize("name", TABLES)
def test_tables_biases_constants_and_routers_stay_whole(name: str) -> None:
    config, whole = TABLES[name]
    model = build(name, config)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    pruned, result = prune(model, Budget(0.3, floor=0))
    for ending, reason in whole.items():
        named = [n for n in before if n.endswith(ending)]
        assert named, f"{name} has no parameter {ending}"
        for n in named:
            assert result.excluded[n] == reason
            assert torch.equal(pruned.get_parameter(n), before[n])
    cut = result.masks.layers
    for ending in CUT.get(name, ()):
        assert all(cut[n][0] < cut[n][1] for n in before if n.endswith(ending))
        assert any(n.endswith(ending) for n in cut)
    plan = prunable(model, include=[f"*{ending}" for ending in whole])
    included = prune(model, Budget(0.3, floor=0), plan=plan)[1]
    assert {n for n in before if n.endswith(tuple(whole))} <= set(included.masks)
