"""Models of sounds, of series, and of several kinds of inputs at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from model_zoo.entry import Entry, Inputs, of_transformers

SPEECH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}
PART: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def waves() -> Inputs:
    return {"input_values": torch.randn(2, 800)}


def spectra() -> Inputs:
    return {
        "input_features": torch.randn(2, 16, 24),
        "decoder_input_ids": torch.randint(3, 40, (2, 5)),
    }


def series() -> Inputs:
    return {"past_values": torch.randn(2, 32, 3)}


def pairs() -> Inputs:
    return {
        "input_ids": torch.randint(3, 40, (2, 6)),
        "pixel_values": torch.randn(2, 3, 32, 32),
    }


speech = partial(of_transformers, inputs=waves, **SPEECH)

OTHERS: dict[str, Entry] = {
    "wav2vec2": speech("Wav2Vec2ForCTC", config="Wav2Vec2Config"),
    "hubert": speech("HubertModel"),
    "unispeech": speech("UniSpeechModel"),
    "wavlm": speech("WavLMModel", num_buckets=32, max_bucket_distance=64),
    "audio spectrogram": of_transformers(
        "ASTModel",
        lambda: {"input_values": torch.randn(2, 32, 16)},
        **PART,
        **{"patch_size": 8, "max_length": 32, "num_mel_bins": 16},
        **{"frequency_stride": 8, "time_stride": 8},
    ),
    "whisper": of_transformers(
        "WhisperForConditionalGeneration",
        spectra,
        **{"vocab_size": 40, "num_mel_bins": 16, "d_model": 32, "max_source_positions": 12},
        **{"encoder_layers": 1, "decoder_layers": 1, "max_target_positions": 16},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "use_cache": False},
        **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 1},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "patchtst": of_transformers(
        "PatchTSTForPrediction",
        series,
        config="PatchTSTConfig",
        **{"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
        **{"prediction_length": 8, "d_model": 32, "num_hidden_layers": 2, "ffn_dim": 48},
        num_attention_heads=4,
    ),
    "patchtsmixer": of_transformers(
        "PatchTSMixerForPrediction",
        series,
        config="PatchTSMixerConfig",
        **{"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8},
        **{"prediction_length": 8, "d_model": 16, "num_layers": 2},
    ),
    "clip": of_transformers(
        "CLIPModel",
        pairs,
        text_config=PART | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config=PART | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    ),
    "siglip": of_transformers(
        "SiglipModel",
        pairs,
        text_config=PART | {"vocab_size": 40, "max_position_embeddings": 6},
        vision_config=PART | {"image_size": 32, "patch_size": 8},
    ),
    "vilt": of_transformers(
        "ViltModel",
        pairs,
        **PART,
        **{"image_size": 32, "patch_size": 8, "vocab_size": 40, "max_position_embeddings": 16},
    ),
    "layoutlm": of_transformers(
        "LayoutLMModel",
        lambda: {
            "input_ids": torch.randint(3, 40, (2, 6)),
            "bbox": torch.randint(0, 20, (2, 6, 4)).sort(-1).values[..., [0, 1, 2, 3]],
        },
        **PART,
        **{"vocab_size": 40, "max_position_embeddings": 16, "max_2d_position_embeddings": 32},
    ),
    "decision transformer": of_transformers(
        "DecisionTransformerModel",
        lambda: {
            "states": torch.randn(2, 4, 5),
            "actions": torch.randn(2, 4, 3),
            "rewards": torch.randn(2, 4, 1),
            "returns_to_go": torch.randn(2, 4, 1),
            "timesteps": torch.arange(4).expand(2, 4),
            "attention_mask": torch.ones(2, 4),
        },
        **{"state_dim": 5, "act_dim": 3, "hidden_size": 32, "max_ep_len": 16, "vocab_size": 1},
        **{"n_layer": 1, "n_head": 4, "n_positions": 32},
    ),
}
