"""What every model of the list goes through. Each way raises where something is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from onnx import load as load_onnx
from torch import Tensor, nn

from model_zoo import Entry, Inputs
from secateur import (
    Budget,
    Masks,
    channel_groups,
    export_onnx,
    load,
    prunable,
    prune,
    save,
    select_channels,
    shrink,
)
from secateur import compile as compiled
from secateur.errors import CompileError
from secateur.export import names_of
from secateur.model.inputs import arguments, tensors_in

TOLERANCE = 2e-4
"""Largest difference of an answer, relative to the largest one."""

FIXED = "fixed batch"


@dataclass(frozen=True)
class Model:
    """A model, its inputs, others like them, and a folder for its files."""

    module: nn.Module
    inputs: Inputs
    fresh: Inputs
    folder: Path


def made(entry: Entry, folder: Path) -> Model:
    """Build a model whose norms and biases are not at their start, in evaluation mode."""
    torch.manual_seed(0)
    module = entry.make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
    return Model(module, entry.inputs(), entry.inputs(), folder)


def answers(module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the tensors that a module gives."""
    positional, by_name = arguments(inputs)
    torch.manual_seed(0)  # some draw numbers in evaluation too
    with torch.no_grad():
        return list(tensors_in(module(*positional, **by_name)))


def difference(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest of each tensor wanted."""
    assert len(got) == len(wanted), f"{len(got)} answers, not {len(wanted)}"
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape, (
            f"an answer of {tuple(one.shape)}, not {tuple(other.shape)}"
        )
        finite = other.isfinite()
        assert torch.equal(finite, one.isfinite()), "answers are not finite in the same places"
        a, b = one[finite].double(), other[finite].double()
        if a.numel():
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)))
    return worst


# The ways. A docstring is what the table says about one.


def weights(model: Model) -> str:
    """Exactly round(0.3 * N) single weights are kept, counted in the tensors; keys stay."""
    plan = prunable(model.module)
    pruned, result = prune(model.module, 0.3)
    total = plan.total(pruned)
    left = sum(int(pruned.get_parameter(n).count_nonzero()) for n in plan.names)
    assert left == result.masks.kept == round(0.3 * total), f"{left} of {total} are kept"
    assert list(pruned.state_dict()) == list(model.module.state_dict()), "keys have changed"
    assert all(tensor.isfinite().any() for tensor in answers(pruned, model.inputs))
    return ""


def fours(model: Model) -> str:
    """Exactly half of all blocks of four input channels are kept, each whole or not at all."""
    pruned, result = prune(model.module, 0.5, pattern="dot4", example=model.inputs)
    in_fours(pruned, result.masks, lambda kept: bool(((kept == 0) | (kept == 4)).all()))
    answers(pruned, model.inputs)
    return ""


def two_of_four(model: Model) -> str:
    """Of every four weights along the inputs, two are kept; a rest of fewer is kept whole."""
    pruned, result = prune(model.module, pattern="2:4", example=model.inputs)
    in_fours(pruned, result.masks, lambda kept: bool((kept == 2).all()))
    answers(pruned, model.inputs)
    return ""


def in_fours(module: nn.Module, masks: Masks, fine: Callable[[Tensor], bool]) -> None:
    """Check that weights are zero where they are cut, and how many of each four are kept."""
    assert masks.kept < masks.total, "nothing is cut"
    for name, mask in masks.items():
        assert not module.get_parameter(name)[~mask].any(), f"{name} is not zero where it is cut"
        assert any(
            size < 4 or fine(mask.unfold(dim, 4, 4).sum(-1)) for dim, size in enumerate(mask.shape)
        ), f"{name} is cut otherwise"


def channels(model: Model) -> str:
    """Half of each group's channels are cut and taken out: the smaller model's answers on other
    inputs are those of the masked one. "stays": there is none that can be cut.
    Below the table: what is refused, and why."""
    groups = channel_groups(model.module, model.inputs)
    scores = {n: p.detach().abs() for n, p in model.module.named_parameters() if p.dim() > 1}
    cut = select_channels(scores, groups, Budget(0.5, "layer"))
    masked = copy.deepcopy(model.module)
    cut.apply(masked)
    small = shrink(model.module, cut, model.inputs)
    assert small.after < small.before or len(small.refused) == len(groups)
    off = difference(answers(small.model, model.fresh), answers(masked, model.fresh))
    assert off <= TOLERANCE, f"the smaller model's answers differ by {off:.0e}"
    refused = [f"{name}: {why}" for name, why in small.refused.items()]
    return "; ".join([f"{len(groups) - len(refused)} of {len(groups)} groups", *refused[:2]])


def files(model: Model) -> str:
    """Saved and loaded into a model with other weights, every tensor comes back bit for bit."""
    pruned, result = prune(model.module, 0.3)
    path = model.folder / "model.safetensors"
    save(pruned, path, masks=result.masks)
    other = copy.deepcopy(pruned)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    load(path, other)
    state = other.state_dict()
    for name, tensor in pruned.state_dict().items():
        same = torch.equal(tensor.nan_to_num(), state[name].nan_to_num())
        assert same, f"{name} came back otherwise"
    return ""


def onnx(model: Model) -> str:
    """The ONNX file of the pruned model gives what torch gives."""
    pruned, _ = prune(model.module, 0.3)
    export_onnx(pruned, model.inputs, model.folder / "model.onnx")
    return ""


def engine(model: Model) -> str:
    """The compiled engine gives what torch gives, on inputs that it was not made with. "fixed
    batch": samples meet in the network, as an error says, so it was compiled for two."""
    pruned, _ = prune(model.module, 0.3)
    path = model.folder / "engine.onnx"
    export_onnx(pruned, model.inputs, path, tolerance=1.0)
    told = ""
    try:
        made = compiled(path)
    except CompileError as error:
        if "fix the batch" not in str(error):
            raise
        told = FIXED
        ports = {port.name for port in load_onnx(path).graph.input}
        given = names_of(model.inputs).items()
        shapes = {name: tuple(tensor.shape) for name, tensor in given if name in ports}
        made = compiled(path, input_shapes=shapes)
    with made as built:
        fresh = {name: tensor.numpy() for name, tensor in names_of(model.fresh).items()}
        # the exporter leaves out inputs that nothing reads
        out = built({port["name"]: fresh[port["name"]] for port in built.info["inputs"]})
    got = [torch.from_numpy(a) for a in (out if isinstance(out, (tuple, list)) else [out])]
    off = difference(got, answers(pruned, model.fresh))
    assert off <= TOLERANCE, f"the engine's answers differ by {off:.0e}"
    return told


WAYS: dict[str, Callable[[Model], str]] = {
    "weights": weights,
    "dot4": fours,
    "2:4": two_of_four,
    "channels": channels,
    "save, load": files,
    "ONNX": onnx,
    "compile": engine,
}
