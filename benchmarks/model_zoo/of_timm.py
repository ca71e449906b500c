"""Networks of timm, narrow or shallow where their settings allow it."""

from __future__ import annotations

from functools import partial

from model_zoo.entry import Entry, of_timm, of_timm_class

ONE, FOUR = (1, 1, 1, 1), (8, 16, 24, 32)
sized = partial(of_timm, img_size=64)

TIMM: dict[str, Entry] = {
    "vision transformer": sized("test_vit"),
    "eva-02": of_timm("eva02_tiny_patch14_224", 56, img_size=56, embed_dim=48, depth=1),
    "cait": sized("cait_xxs24_224", depth=1, embed_dim=32, num_heads=2),
    "xcit": sized("xcit_nano_12_p16_224", depth=1, embed_dim=32, num_heads=2),
    "coat": sized("coat_lite_tiny", embed_dims=(16, 16, 32, 32)),
    "convit": sized("convit_tiny", depth=2, embed_dim=32, num_heads=4),
    "crossvit": of_timm(
        "crossvit_tiny_240", 120, img_size=120, embed_dim=(16, 24), num_heads=(2, 3)
    ),
    "levit": sized("levit_128s"),
    "efficientvit": sized("efficientvit_m0"),
    "mvit-v2": of_timm_class(
        "mvitv2.MultiScaleVit",
        objects={"cfg": ("MultiScaleVitCfg", {"depths": ONE, "embed_dim": 32, "num_heads": 2})},
        img_size=(64, 64),
    ),
    "hiera": sized("hiera_tiny_224", embed_dim=16, stages=ONE),
    "swin": sized("swin_tiny_patch4_window7_224", window_size=2, embed_dim=24, depths=(1, 2)),
    "davit": of_timm(
        "davit_tiny", depths=ONE, embed_dims=FOUR, num_heads=(1, 2, 3, 4), window_size=2
    ),
    "maxvit": of_timm("maxvit_rmlp_pico_rw_256", img_size=64),
    "pvt-v2": of_timm("pvt_v2_b0"),
    "twins": of_timm("twins_svt_small", img_size=64, embed_dims=(16, 16, 32, 32)),
    "tiny-vit": of_timm("tiny_vit_5m_224"),
    "visformer": sized("visformer_tiny"),
    "repvit": of_timm("repvit_m0_9"),
    "shvit": of_timm("shvit_s1"),
    "swiftformer": of_timm("swiftformer_xs"),
    "fastvit": of_timm("fastvit_t8", layers=ONE, embed_dims=(16, 32, 48, 64)),
    "edgenext": of_timm("edgenext_xx_small"),
    "mobilevit": of_timm("mobilevit_xxs"),
    "metaformer": of_timm_class("metaformer.MetaFormer", depths=ONE, dims=FOUR),
    "mixer": of_timm_class("mlp_mixer.MlpMixer", img_size=64, embed_dim=32, num_blocks=2),
    "convmixer": of_timm_class("convmixer.ConvMixer", dim=24, depth=2),
    "sequencer": of_timm("sequencer2d_s", layers=ONE, embed_dims=(16, 32, 32, 32)),
    "convnext": of_timm("test_convnext"),
    "convnext-v2": of_timm("convnextv2_atto", depths=ONE, dims=FOUR),
    "inception-next": of_timm("inception_next_atto", depths=ONE, dims=(16, 32, 48, 64)),
    "fasternet": of_timm("fasternet_t0", embed_dim=16, depths=ONE),
    "mambaout": of_timm("test_mambaout"),
    "starnet": of_timm("starnet_s1", base_dim=8, depths=ONE),
    "focalnet": of_timm_class("focalnet.FocalNet", depths=ONE, embed_dim=16),
    "resnet": of_timm("test_resnet"),
    "seresnet": of_timm("seresnet18", channels=FOUR),
    "skresnet": of_timm("skresnet18", channels=(16, 16, 32, 32)),
    "resnest": of_timm("resnest14d", stem_width=8, base_width=16),
    "res2net": of_timm("res2net50_26w_4s", layers=ONE, base_width=8),
    "regnet": of_timm("regnety_002"),
    "nfnet": of_timm("test_nfnet"),
    "byobnet": of_timm("test_byobnet"),
    "repghost": of_timm("repghostnet_050"),
    "ghostnet": of_timm("ghostnet_050"),
    "mobilenet-v3": of_timm("mobilenetv3_small_050"),
    "mobilenet-v4": of_timm("mobilenetv4_conv_small_035"),
    "mnasnet": of_timm("mnasnet_small"),
    "efficientnet": of_timm("test_efficientnet"),
    "lcnet": of_timm("lcnet_050"),
    "densenet": of_timm("densenet121", growth_rate=8, block_config=(1, 2, 2, 1)),
    "vovnet": of_timm("ese_vovnet19b_slim_dw"),
    "dla": of_timm("dla46_c"),
    "hrnet": of_timm("hrnet_w18_small"),
    "hgnet-v2": of_timm("hgnetv2_b0"),
}
