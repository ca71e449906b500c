"""Networks with the layer shapes of named publications, random weights, in plain torch.

Each docstring cites the publication and the figures that are taken from it. Where it repeats a
layer many times there are fewer here, and the docstring says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from networks import NORMS, VOCABULARY, cut, settle
from networks import texts as masked
from secateur import export_onnx
from suite_nets import classifiers, mobile, planes, sounds, texts

Inputs = tuple[Tensor, ...]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def _drawn(*shape: int) -> Callable[[int], Inputs]:
    return lambda count: (torch.randn(count, *shape),)


def _words(tokens: int, words: int = VOCABULARY) -> Callable[[int], Inputs]:
    return lambda count: (torch.randint(0, words, (count, tokens)),)


def _words_and(tokens: int, *shape: int) -> Callable[[int], Inputs]:
    return lambda count: (*_words(tokens)(count), torch.randn(count, *shape))


_image = _drawn(3, 224, 224)


@dataclass(frozen=True)
class Network:
    """One network: what it is, how to build it, what it reads."""

    kind: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs] = _image
    head: str = "head*"
    """A glob of the weights that give the outputs: they stay dense."""
    include_first: bool = False
    """The first layer is cut, too: it is most of the network."""


NETWORKS = {
    "alexnet": Network("image", classifiers.alexnet),
    "vgg11": Network("image", classifiers.vgg11),
    "resnet18": Network("image", classifiers.resnet18),
    "resnet50": Network("image", classifiers.resnet50),
    "squeezenet": Network("image", classifiers.squeezenet),
    "densenet": Network("image", classifiers.densenet),
    "mixer": Network("image", classifiers.Mixer),
    "lenet300": Network("digits", classifiers.lenet300, _drawn(784), include_first=True),
    "mobilenet-v1": Network("mobile image", mobile.mobilenet_v1),
    "mobilenet-v2": Network("mobile image", mobile.mobilenet_v2),
    "mobilenet-v3": Network("mobile image", mobile.mobilenet_v3),
    "efficientnet-b0": Network("mobile image", mobile.efficientnet_b0),
    "shufflenet-v2": Network("mobile image", mobile.shufflenet_v2),
    "ssdlite": Network("detector", planes.SsdLite, _drawn(3, 320, 320)),
    "blazeface": Network("detector", planes.BlazeFace, _drawn(3, 128, 128)),
    "yolo-tiny": Network("detector", planes.YoloTiny, _drawn(3, 416, 416)),
    "dbnet": Network("text detector", planes.TextDetector, _drawn(3, 352, 608)),
    "crnn": Network("text reader", planes.Crnn, _drawn(1, 32, 320)),
    "unet": Network("segmentation", planes.UNet, _drawn(3, 256, 256)),
    "vq-vae": Network("autoencoder", planes.vq_vae, _drawn(3, 128, 128)),
    "fsrcnn": Network("super-resolution", planes.fsrcnn, _drawn(1, 120, 160)),
    "dnsmos": Network("speech quality", sounds.dnsmos, _drawn(1, 900, 120)),
    "crepe": Network("pitch", sounds.crepe, _drawn(1, 1024)),
    "conv-tasnet": Network("speech separation", sounds.ConvTasNet, _drawn(1, 8000)),
    "pyannet": Network("speaker turns", sounds.PyanNet, _drawn(1, 80000)),
    "vad": Network("voice activity", sounds.VoiceActivity, _drawn(100, 40)),
    "nsnet2": Network("noise removal", sounds.NsNet2, _drawn(100, 161)),
    "rnnoise": Network("noise removal", sounds.RnNoise, _drawn(100, 42)),
    "ds-cnn": Network("key words", mobile.ds_cnn, _drawn(1, 49, 10)),
    "tc-resnet": Network("key words", sounds.residual_tcn, _drawn(40, 101)),
    "ecg": Network("electrocardiogram", sounds.ecg, _drawn(12, 4096)),
    "wavenet": Network("sound model", sounds.WaveNet, _drawn(1, 2000)),
    "minilm": Network("text encoder", texts.minilm, masked, "linear*"),
    "bert-tiny": Network("text encoder", texts.bert_tiny, masked, "linear*"),
    "vit-tiny": Network("image transformer", texts.vit_tiny, _image, "linear*"),
    "gpt2": Network("text decoder", texts.Gpt, _words(64)),
    "t5-decoder": Network("text decoder", texts.T5Decoder, _words_and(32, 64, 512)),
    "smollm": Network("text decoder", texts.SmolLm, _words(64)),
    "whisper-encoder": Network("speech encoder", texts.Whisper, _drawn(80, 1000)),
    "lstm-lm": Network("text model", texts.LstmModel, _words(35, 10000)),
    "text-cnn": Network("text classifier", texts.text_cnn, _words(56)),
}
"""Every network of the suite, by name. None is taken out for what was measured on it."""


def module(name: str, sparsity: float, *, seed: int = 0) -> nn.Module:
    """Return a network of random weights, cut, in evaluation mode.

    Every layer is cut by magnitude to the same sparsity, but for the first one, those that give
    the outputs, and depthwise convolutions, which stay dense in pruned mobile networks (Elsen et
    al. 2019, arXiv 1911.09723).

    Args:
        name: a key of `NETWORKS`.
        sparsity: fraction of each layer's weights that are zero, in [0, 1).
        seed: of weights and of the inputs that batch norms see.
    """
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network.build()
        _carry(model)
        if sparsity:
            exclude = (network.head, *uncut(model))
            cut(model, sparsity, exclude, include_first=network.include_first)
        settle(model, network.inputs, count=4, batches=2)
    return model.eval()


def uncut(model: nn.Module) -> list[str]:
    """Return the names of the weights of depthwise convolutions."""
    return [
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1
    ]


@torch.no_grad()
def _carry(model: nn.Module) -> None:
    """Keep the variance from convolution to convolution (He et al. 2015), where no norm does."""
    layers = list(model.modules())
    if not any(isinstance(layer, NORMS) for layer in layers):
        for layer in layers:
            if isinstance(layer, CONVOLUTIONS):
                nn.init.kaiming_normal_(layer.weight)


def onnx_file(name: str, sparsity: float, folder: Path, *, seed: int = 0) -> Path:
    """Return the ONNX file of a network for one sample, written into `folder` if it is not there.

    Raises:
        CompileError: torch cannot export it, or the file gives something else.
    """
    path = folder / f"{name}-{sparsity:g}-{seed}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            example = NETWORKS[name].inputs(1)
        export_onnx(module(name, sparsity, seed=seed), example, path, batched=False)
    return path
