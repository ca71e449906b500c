"""Models of texts: encoders, decoders, both, recurrences, experts."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from model_zoo.entry import Entry, Inputs, of_transformers

WORDS = 48
BODY: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
DECODER: dict[str, Any] = {
    **BODY,
    "num_key_value_heads": 2,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: dict[str, Any] = {**DECODER, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
BOTH: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
T5: dict[str, Any] = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 1,
    "num_heads": 4,
    "use_cache": False,
}


def ids(length: int = 7) -> Inputs:
    return {"input_ids": torch.randint(3, WORDS, (2, length))}


def masked(length: int = 8) -> Inputs:
    """Tokens and their mask; the second text is shorter."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, length - 2 :] = 0
    return {"input_ids": torch.randint(3, WORDS, (2, length)), "attention_mask": mask}


def two() -> Inputs:
    return {
        "input_ids": torch.randint(3, WORDS, (2, 7)),
        "decoder_input_ids": torch.randint(3, WORDS, (2, 5)),
    }


encoder = partial(of_transformers, inputs=masked, **BODY)
decoder = partial(of_transformers, inputs=ids, **DECODER)
experts = partial(of_transformers, inputs=ids, **EXPERTS)
both = partial(of_transformers, inputs=two, **BOTH)
t5 = partial(of_transformers, inputs=two, **T5)
gpt = partial(of_transformers, inputs=ids, use_cache=False, bos_token_id=1, eos_token_id=2)

ENCODERS: dict[str, Entry] = {
    "bert": encoder("BertForSequenceClassification", config="BertConfig"),
    "roberta": encoder("RobertaModel", pad_token_id=1),
    "xlm-roberta": encoder(
        "XLMRobertaForTokenClassification", config="XLMRobertaConfig", pad_token_id=1
    ),
    "distilbert": of_transformers(
        "DistilBertForQuestionAnswering",
        masked,
        config="DistilBertConfig",
        **{"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        max_position_embeddings=32,
    ),
    "albert": encoder("AlbertModel", embedding_size=16),
    "electra": encoder("ElectraModel", embedding_size=16),
    "mpnet": encoder("MPNetModel", pad_token_id=1),
    "deberta": encoder("DebertaModel", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": encoder("DebertaV2Model", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "modernbert": encoder("ModernBertModel", **{"pad_token_id": 0, "cls_token_id": 1}),
    "mobilebert": encoder(
        "MobileBertModel",
        **{"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "squeezebert": encoder("SqueezeBertModel", embedding_size=32),
    "roformer": encoder("RoFormerModel", embedding_size=32),
    "fnet": of_transformers(
        "FNetModel", ids, **{k: v for k, v in BODY.items() if "heads" not in k}
    ),
    "funnel": of_transformers(
        "FunnelModel",
        masked,
        **{"vocab_size": WORDS, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32},
        **{"n_head": 4, "d_head": 8, "d_inner": 48},
    ),
    "convbert": encoder("ConvBertModel", embedding_size=32, conv_kernel_size=3),
    # as many landmarks as tokens, which is the default: of fewer, transformers 5.24 itself takes
    # no mask, and its traces have one
    "nystromformer": of_transformers(
        "NystromformerModel", partial(ids, 8), **BODY, num_landmarks=8, segment_means_seq_len=8
    ),
    "esm": encoder("EsmModel", pad_token_id=1, position_embedding_type="rotary"),
    "rembert": encoder("RemBertModel", input_embedding_size=16, output_embedding_size=16),
    "xlnet": of_transformers(
        "XLNetModel",
        ids,
        **{"vocab_size": WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
        use_mems_eval=False,
    ),
    "nomic-bert": encoder("NomicBertModel"),
}

DECODERS: dict[str, Entry] = {
    "gpt-2": gpt("GPT2LMHeadModel", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4),
    "openai-gpt": gpt(
        "OpenAIGPTLMHeadModel", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=32
    ),
    "gpt-neo": gpt(
        "GPTNeoForCausalLM",
        vocab_size=WORDS,
        **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4},
        **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32},
    ),
    "gpt-neox": decoder("GPTNeoXForCausalLM"),
    "gpt-j": gpt("GPTJForCausalLM", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
    "gpt-bigcode": gpt("GPTBigCodeForCausalLM", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4),
    "codegen": gpt(
        "CodeGenForCausalLM", vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4
    ),
    "opt": decoder("OPTForCausalLM", ffn_dim=48, word_embed_proj_dim=32),
    "bloom": gpt("BloomForCausalLM", vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4),
    "mpt": gpt("MptForCausalLM", vocab_size=WORDS, d_model=32, n_layers=2, n_heads=4),
    "falcon": decoder("FalconForCausalLM"),
    "llama": decoder("LlamaForCausalLM"),
    "mistral": decoder("MistralForCausalLM", sliding_window=4),
    "qwen2": decoder("Qwen2ForCausalLM"),
    "qwen3": decoder("Qwen3ForCausalLM", head_dim=8),
    "phi": decoder("PhiForCausalLM"),
    "phi-3": decoder("Phi3ForCausalLM"),
    "gemma": decoder("GemmaForCausalLM", head_dim=8),
    "gemma-2": decoder("Gemma2ForCausalLM", head_dim=8, sliding_window=4),
    "gemma-3": decoder(
        "Gemma3ForCausalLM", config="Gemma3TextConfig", head_dim=8, sliding_window=4
    ),
    "olmo-2": decoder("Olmo2ForCausalLM"),
    "cohere": decoder("CohereForCausalLM"),
    "stablelm": decoder("StableLmForCausalLM"),
    "starcoder2": decoder("Starcoder2ForCausalLM"),
    "granite": decoder("GraniteForCausalLM"),
    "smollm3": decoder("SmolLM3ForCausalLM"),
    "nemotron": decoder("NemotronForCausalLM"),
    "glm": decoder("GlmForCausalLM", head_dim=8),
    "persimmon": decoder("PersimmonForCausalLM"),
    "biogpt": decoder("BioGptForCausalLM"),
    "xglm": gpt(
        "XGLMForCausalLM",
        vocab_size=WORDS,
        **{"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    ),
}

EXPERT_DECODERS: dict[str, Entry] = {
    "mixtral": experts("MixtralForCausalLM", num_local_experts=4),
    "qwen2-moe": experts("Qwen2MoeForCausalLM", num_experts=4, shared_expert_intermediate_size=24),
    "qwen3-moe": experts("Qwen3MoeForCausalLM", num_experts=4, head_dim=8),
    "olmoe": experts("OlmoeForCausalLM", num_experts=4),
    "deepseek-v2": experts(
        "DeepseekV2ForCausalLM",
        **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
        **{"v_head_dim": 8, "num_key_value_heads": 4},
    ),
    "deepseek-v3": experts(
        "DeepseekV3ForCausalLM",
        **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
        **{"v_head_dim": 8, "num_key_value_heads": 4},
    ),
    "llama-4": experts(
        "Llama4ForCausalLM",
        config="Llama4TextConfig",
        **{"num_local_experts": 4, "intermediate_size_mlp": 48, "head_dim": 8},
        attention_chunk_size=4,
    ),
    "gpt-oss": experts("GptOssForCausalLM", num_local_experts=4, head_dim=8, sliding_window=4),
}

RECURRENT: dict[str, Entry] = {
    "mamba": gpt(
        "MambaForCausalLM", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=4
    ),
    "mamba-2": gpt(
        "Mamba2ForCausalLM",
        vocab_size=WORDS,
        **{"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8},
        **{"head_dim": 8, "n_groups": 1, "chunk_size": 4},
    ),
    "rwkv": gpt("RwkvForCausalLM", vocab_size=WORDS, hidden_size=32, num_hidden_layers=2),
    "recurrent-gemma": decoder("RecurrentGemmaForCausalLM", lru_width=32, head_dim=8),
}

PAIRS: dict[str, Entry] = {
    "t5": t5("T5ForConditionalGeneration"),
    "t5 v1.1": t5(
        "T5ForConditionalGeneration", feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "umt5": t5("UMT5ForConditionalGeneration"),
    "switch": t5(
        "SwitchTransformersForConditionalGeneration",
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    "bart": both("BartForConditionalGeneration"),
    "mbart": both("MBartForConditionalGeneration"),
    "pegasus": both("PegasusForConditionalGeneration"),
    "marian": both("MarianMTModel", config="MarianConfig"),
    "m2m-100": both("M2M100ForConditionalGeneration"),
    "blenderbot": both("BlenderbotForConditionalGeneration"),
}

TEXTS = ENCODERS | DECODERS | EXPERT_DECODERS | RECURRENT | PAIRS
