"""How many networks channels can be taken out of, and whether the smaller one is right.

    python benchmarks/channels.py                    # the tests' networks, and transformers' models
    python benchmarks/channels.py --torch-pruning    # beside Torch-Pruning, if it is installed

Half of every group is cut by magnitude (random weights). Masked and smaller network are compared on
an input that was not used to find the channels: the largest difference over the largest output.
Torch-Pruning is given the last layer to ignore and no other hint; that it "ran" says only that
the outputs have the right shape. Exit status 1: an output differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import Budget, channel_groups, select_channels, shrink

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from channel_nets import NETS, made

TOLERANCE = 1e-5
SECONDS = 60
"""That Torch-Pruning gets for a network."""

Inputs = Tensor | Mapping[str, Tensor]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = {"vocab_size": 50, "max_position_embeddings": 16}


def of_transformers() -> Iterator[tuple[str, Callable[[], nn.Module], Inputs]]:
    """Yield models of small configurations with random weights; nothing is downloaded."""
    import transformers as t

    ids = {"input_ids": torch.randint(1, 50, (1, 7))}
    picture = {"pixel_values": torch.randn(1, 3, 32, 32)}
    llama = SMALL | WORDS | {"intermediate_size": 48, "num_key_value_heads": 2}
    distilled = WORDS | {"n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 48}
    gpt = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    t5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    window = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    for kind, config, inputs in (
        (t.BertModel, t.BertConfig(**SMALL, **WORDS, intermediate_size=48), ids),
        (t.DistilBertModel, t.DistilBertConfig(**distilled), ids),
        (t.GPT2LMHeadModel, t.GPT2Config(**gpt), ids),
        (t.LlamaForCausalLM, t.LlamaConfig(**llama), ids),
        (t.Qwen3ForCausalLM, t.Qwen3Config(**llama, head_dim=8), ids),
        (t.MixtralForCausalLM, t.MixtralConfig(**llama, num_local_experts=2), ids),
        (
            t.T5ForConditionalGeneration,
            t.T5Config(**t5),
            ids | {"decoder_input_ids": torch.ones(1, 3, dtype=torch.long)},
        ),
        (
            t.ViTModel,
            t.ViTConfig(**SMALL, intermediate_size=48, image_size=32, patch_size=8),
            picture,
        ),
        (t.SwinModel, t.SwinConfig(image_size=32, patch_size=4, **window), picture),
        (
            t.ConvNextModel,
            t.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 2], num_stages=2),
            picture,
        ),
        (
            t.ResNetModel,
            t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2]),
            picture,
        ),
        (t.MobileNetV2Model, t.MobileNetV2Config(image_size=32, depth_multiplier=0.35), picture),
    ):
        yield kind.__name__, lambda kind=kind, config=config: kind(config), inputs


def ours(model: nn.Module, inputs: Inputs) -> str:
    """Cut half of every group, and say what came of it; raises AssertionError where it is wrong."""
    groups = channel_groups(model, inputs)
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() > 1}
    cut = select_channels(scores, groups, Budget(0.5, "layer"))
    masked = copy.deepcopy(model)
    cut.apply(masked)
    small = shrink(model, cut, inputs)
    fresh = _fresh(inputs)
    with torch.no_grad():
        wanted, got = _run(masked, fresh), _run(small.model, fresh)
    off = float((wanted - got).abs().max() / wanted.abs().max().clamp_min(1e-30))
    assert off <= TOLERANCE, f"outputs differ by {off:.1e}"
    return (
        f"{small.before:,} → {small.after:,} parameters, {len(small.refused)} of {len(groups)} "
        f"groups refused, difference {off:.0e}"
    )


def theirs(name: str, answer: Any) -> None:
    """Cut half of the channels by Torch-Pruning, in a process of its own."""
    warnings.simplefilter("ignore")
    import torch_pruning

    model, inputs = made(name)
    with torch.no_grad():
        shape = model(inputs).shape
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    last = [module for module in model.modules() if isinstance(module, kinds)][-1]
    try:
        importance = torch_pruning.importance.MagnitudeImportance(p=1)
        torch_pruning.pruner.BasePruner(
            model, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=[last]
        ).step()
        with torch.no_grad():
            fine = model(inputs).shape == shape
        answer.put("ran" if fine else "wrong shape")
    except Exception as error:  # whatever another library raises
        answer.put(f"failed: {type(error).__name__}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch-pruning", action="store_true", help="measure that beside ours")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {_versions()}")
    bad = False
    ran = 0
    for name in NETS:
        bad |= _row(name, *made(name))
        if given.torch_pruning:
            found = _in_a_process(name)
            ran += found == "ran"
            print(f"    Torch-Pruning: {found}", flush=True)
    if given.torch_pruning:
        print(f"Torch-Pruning ran on {ran} of {len(NETS)}")
    try:
        for name, make, inputs in of_transformers():
            bad |= _row(name, make().eval(), inputs)
    except ImportError:
        print("transformers is not installed, so its models are left out")
    return int(bad)


def _row(name: str, model: nn.Module, inputs: Inputs) -> bool:
    try:
        print(f"{name}: {ours(model, inputs)}", flush=True)
    except AssertionError as error:
        print(f"{name}: WRONG, {error}", flush=True)
        return True
    return False


def _in_a_process(name: str) -> str:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=theirs, args=(name, answer), daemon=True)
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.terminate()
        return f"nothing within {SECONDS} s"
    return str(answer.get()) if not answer.empty() else "died"


def _fresh(inputs: Inputs) -> Inputs:
    if isinstance(inputs, Tensor):
        return _drawn(inputs)
    return {name: _drawn(value) for name, value in inputs.items()}


def _drawn(value: Tensor) -> Tensor:
    if value.is_floating_point():
        return torch.randn_like(value)
    return torch.randint(1, int(value.max()) + 1, value.shape)


def _run(model: nn.Module, inputs: Inputs) -> Tensor:
    given = model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
    out: Tensor = given if isinstance(given, Tensor) else given[0]
    return out


def _versions() -> str:
    found = []
    for name in ("transformers", "torch-pruning"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


if __name__ == "__main__":
    raise SystemExit(main())
