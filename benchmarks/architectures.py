"""The architectures that secateur is tried on: plain torch.nn and tiny random transformers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import channel_nets
import coverage_nets as own

Inputs = tuple[Tensor, ...]
Context = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Architecture:
    """How one is built, and how it is run."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    what: str
    """What is special about it, for the table."""
    needs: str = ""
    """A package that may be missing."""
    around: Context = nullcontext
    """Entered before it is built, and left when all is done."""
    running: Context = nullcontext
    """Entered around every pass."""
    refused: str = ""
    """Part of the message, where torch cannot export the model itself."""
    why: str = ""
    """Why it cannot."""


def shaped(*shapes: tuple[int, ...]) -> Callable[[], Inputs]:
    return lambda: tuple(torch.randn(shape) for shape in shapes)


def tokens(vocabulary: int, *shapes: tuple[int, ...]) -> Callable[[], Inputs]:
    return lambda: tuple(torch.randint(0, vocabulary, shape) for shape in shapes)


def known(name: str) -> tuple[Callable[[], nn.Module], Callable[[], Inputs]]:
    """Return a network that the tests of channels have already, and its input."""
    net = channel_nets.NETS[name]
    return net.make, lambda: (net.example(),)


@contextmanager
def alone() -> Iterator[None]:
    """Be the only process of a group."""
    with tempfile.TemporaryDirectory() as folder:
        meet = (Path(folder) / "meet").as_uri()
        dist.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=16,
        )
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=40,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


theirs = partial(
    Architecture,
    inputs=tokens(40, (2, 7)),
    needs="transformers",
)
image = shaped((2, 1, 8, 8))

ARCHITECTURES: dict[str, Architecture] = {
    "plain": Architecture(*known("plain"), "convolutions, pools and PReLU in a row"),
    "residual": Architecture(*known("resnet"), "sums, with and without a projection"),
    "dense-connected": Architecture(*known("dense"), "every layer reads all before it"),
    "inverted residual": Architecture(*known("mobilenet"), "depthwise, squeeze-excite, ReLU6"),
    "squeeze-excite": Architecture(own.SqueezeExcite, shaped((2, 3, 6, 6)), "channels are weighed"),
    "resnext": Architecture(*known("resnext"), "grouped convolutions"),
    "shuffle": Architecture(*known("shuffle"), "halves and a channel shuffle"),
    "convnext": Architecture(
        own.ConvNext, shaped((2, 3, 8, 8)), "7×7 depthwise, channels last, a scale of every layer"
    ),
    "group norm": Architecture(own.groupnorm, shaped((2, 3, 8, 8)), "group and instance norms"),
    "u-net": Architecture(*known("unet"), "transposed convolution, concatenation, interpolation"),
    "super-resolution": Architecture(*known("superres"), "pixel shuffle, reflection padding"),
    "autoencoder": Architecture(own.autoencoder, image, "transposed convolutions, one grouped"),
    "conv 1-D": Architecture(*known("conv1d"), "audio-like, transposed depthwise"),
    "conv 3-D": Architecture(*known("conv3d"), "volumes, transposed 3-D"),
    "mixer": Architecture(own.Mixer, shaped((2, 3, 8, 8)), "mixes positions, then channels"),
    "vit": Architecture(*known("vit"), "patches, class token, learned positions"),
    "swin": Architecture(
        own.ShiftedWindows, shaped((2, 3, 8, 8)), "shifted windows, relative positions, merging"
    ),
    "swin block": Architecture(*known("swin"), "windows and a roll"),
    "detr head": Architecture(own.Detector, shaped((2, 3, 8, 8)), "queries, a dict of outputs"),
    "bert": Architecture(own.Bert, tokens(2, (2, 6), (2, 6)), "two inputs, padding, pooler"),
    "gpt-2": Architecture(*known("gpt"), "causal, head tied to the embedding"),
    "llama": Architecture(*known("llama"), "grouped-query attention, rotary, gated MLP"),
    "bert (transformers)": theirs(make=bert, what="BertForMaskedLM, tied decoder"),
    "gpt-2 (transformers)": theirs(make=gpt2, what="GPT2LMHeadModel, Conv1D, tied head"),
    "llama (transformers)": theirs(make=llama, what="LlamaForCausalLM, 4 heads on 2, tied head"),
    "multi-head attention": Architecture(*known("mha"), "nn.MultiheadAttention"),
    "encoder layer": Architecture(*known("encoder"), "nn.TransformerEncoderLayer"),
    "encoder-decoder": Architecture(
        own.Seq2Seq, shaped((2, 5, 8), (2, 4, 8)), "nn.Transformer, two sequences"
    ),
    "lstm": Architecture(*known("lstm"), "nn.LSTM"),
    "gru": Architecture(own.Gru, tokens(20, (2, 6)), "nn.GRU, two layers, both directions"),
    "cells": Architecture(own.Cells, shaped((2, 4, 5)), "LSTMCell and GRUCell in a loop"),
    "embedding bag": Architecture(own.Bag, tokens(40, (2, 5)), "nn.EmbeddingBag"),
    "experts": Architecture(own.Experts, shaped((2, 4, 6)), "mixture of two experts"),
    "bilinear": Architecture(
        *(own.Pairs, shaped((2, 5), (2, 7)), "two inputs, nn.Bilinear"),
        refused="aten::bilinear",
        why="ONNX has no such operator, and torch's exporter no other form of it",
    ),
    "parametrized": Architecture(
        own.normalised, image, "a layer under weight_norm, which stays whole"
    ),
    "adapter": Architecture(own.Adapter, shaped((2, 6)), "frozen layers, trained ones of low rank"),
    "gated": Architecture(*known("gated"), "chunk, GLU, a free scale"),
    "tied": Architecture(
        own.Tied, shaped((2, 8)), "transposed and shared weights, a ParameterList"
    ),
    "reused": Architecture(*known("reused"), "one layer three times, one in two branches"),
    "nested": Architecture(own.nested, shaped((2, 1, 4, 4)), "nn.Sequential in nn.Sequential"),
    "compiled": Architecture(
        lambda: torch.compile(own.small(), backend="eager"), image, "torch.compile"
    ),
    "ddp": Architecture(
        lambda: nn.parallel.DistributedDataParallel(own.small()),
        *(image, "DistributedDataParallel, one process"),
        around=alone,
    ),
    "averaged": Architecture(lambda: AveragedModel(own.small()), image, "AveragedModel (EMA)"),
    "traced": Architecture(
        lambda: torch.fx.symbolic_trace(own.SqueezeExcite()),
        *(shaped((2, 3, 6, 6)), "torch.fx.GraphModule"),
    ),
    "channels last": Architecture(
        *(
            lambda: own.small().to(memory_format=torch.channels_last),
            image,
            "weights not contiguous",
        ),
    ),
    "bf16": Architecture(
        lambda: own.small().to(torch.bfloat16),
        *(lambda: (torch.randn(2, 1, 8, 8).to(torch.bfloat16),), "parameters in bfloat16"),
    ),
    "bf16 autocast": Architecture(
        *(own.small, image, "float32 parameters, run in bfloat16"),
        running=lambda: torch.autocast("cpu", torch.bfloat16),
    ),
}
