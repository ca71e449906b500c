"""Models of pictures in transformers: convolutions, patches, windows, detectors, planes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from model_zoo.entry import Entry, Inputs, of_transformers

PATCHES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}


def pixels(side: int = 32) -> Inputs:
    return {"pixel_values": torch.randn(2, 3, side, side)}


def frames() -> Inputs:
    return {"pixel_values": torch.randn(2, 4, 3, 16, 16)}


small = partial(of_transformers, inputs=pixels)
large = partial(of_transformers, inputs=partial(pixels, 64))
patches = partial(of_transformers, inputs=pixels, **PATCHES)

PICTURES: dict[str, Entry] = {
    "vit": patches("ViTForImageClassification", config="ViTConfig"),
    "deit": patches("DeiTModel"),
    "beit": patches("BeitModel", use_relative_position_bias=True),
    "data2vec-vision": patches("Data2VecVisionModel", use_relative_position_bias=True),
    "dinov2": patches("Dinov2Model", mlp_ratio=2),
    "dinov2 registers": patches("Dinov2WithRegistersModel", mlp_ratio=2),
    "ijepa": patches("IJepaModel"),
    "vit-msn": patches("ViTMSNModel"),
    "yolos": of_transformers(
        "YolosForObjectDetection",
        pixels,
        config="YolosConfig",
        **(PATCHES | {"image_size": [32, 32], "num_detection_tokens": 5}),
    ),
    "siglip vision": patches("SiglipVisionModel", config="SiglipVisionConfig"),
    "clip vision": patches("CLIPVisionModel", config="CLIPVisionConfig"),
    "swin": small("SwinForImageClassification", config="SwinConfig", **WINDOWS),
    "swin-v2": small("Swinv2Model", **WINDOWS),
    "hiera": small(
        "HieraModel",
        **{"image_size": [32, 32], "patch_kernel": [7, 7], "patch_stride": [4, 4]},
        **{"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "query_stride": [2, 2]},
        **{"masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False]},
        **{"num_query_pool": 1, "patch_padding": [3, 3], "mlp_ratio": 2.0},
    ),
    "convnext": small(
        "ConvNextForImageClassification",
        config="ConvNextConfig",
        **{"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
    ),
    "convnext-v2": small(
        "ConvNextV2ForImageClassification",
        config="ConvNextV2Config",
        **{"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
    ),
    "resnet": small(
        "ResNetForImageClassification",
        config="ResNetConfig",
        **{"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2]},
    ),
    "resnet basic": small(
        "ResNetModel",
        **{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    ),
    "regnet": small(
        "RegNetForImageClassification",
        config="RegNetConfig",
        **{"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 2], "groups_width": 8},
    ),
    "bit": small(
        "BitModel",
        **{"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    ),
    "mobilenet-v1": small(
        "MobileNetV1ForImageClassification",
        config="MobileNetV1Config",
        **{"depth_multiplier": 0.25, "min_depth": 8},
    ),
    "mobilenet-v2": small(
        "MobileNetV2ForImageClassification",
        config="MobileNetV2Config",
        depth_multiplier=0.25,
    ),
    "efficientnet": small(
        "EfficientNetModel",
        **{"width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 32},
        hidden_dim=320,  # 1280 at this width
    ),
    "mobilevit": large(
        "MobileViTModel",
        **{"image_size": 64, "hidden_sizes": [16, 24, 32]},
        neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 48],
    ),
    "mobilevit-v2": large("MobileViTV2Model", image_size=64, width_multiplier=0.25),
    "poolformer": small(
        "PoolFormerModel",
        **{"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "num_encoder_blocks": 4},
    ),
    "levit": large(
        "LevitModel",
        **{"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4]},
        **{"depths": [1, 1, 1], "key_dim": [8, 8, 8]},
    ),
    "cvt": small(
        "CvtModel",
        **{"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    ),
    "pvt": small(
        "PvtModel",
        **{"image_size": 32, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]},
        **{"num_attention_heads": [1, 2, 2, 3], "sequence_reduction_ratios": [2, 1, 1, 1]},
    ),
    "pvt-v2": small(
        "PvtV2Model",
        **{"image_size": 32, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]},
        num_attention_heads=[1, 2, 2, 3],
    ),
    "focalnet": small("FocalNetModel", image_size=32, embed_dim=16, depths=[1, 1]),
    "segformer": large(
        "SegformerForSemanticSegmentation",
        config="SegformerConfig",
        **{"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
        num_attention_heads=[1, 2, 2, 3],
    ),
    "glpn": large(
        "GLPNForDepthEstimation",
        config="GLPNConfig",
        **{"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16},
        num_attention_heads=[1, 2, 2, 3],
    ),
    "swiftformer": small(
        "SwiftFormerModel", image_size=32, embed_dims=[8, 16, 16, 24], depths=[1, 1, 1, 1]
    ),
    "swin2sr": small(
        "Swin2SRForImageSuperResolution",
        config="Swin2SRConfig",
        **{"image_size": 16, "patch_size": 1, "embed_dim": 16, "depths": [1, 1]},
        **{"num_heads": [2, 2], "window_size": 4, "upscale": 2},
    ),
    "textnet": small(
        "TextNetModel",
        **{"stem_kernel_size": 3, "stem_out_channels": 8, "hidden_sizes": [8, 16, 16, 24, 24]},
    ),
    "dinov3-convnext": small("DINOv3ConvNextModel", hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
    "dinov3-vit": patches("DINOv3ViTModel", num_register_tokens=2),
    "timesformer": of_transformers(
        "TimesformerModel", frames, **(PATCHES | {"image_size": 16, "num_frames": 4})
    ),
    "videomae": of_transformers(
        "VideoMAEModel",
        frames,
        **(PATCHES | {"image_size": 16, "num_frames": 4, "use_mean_pooling": False}),
    ),
}
