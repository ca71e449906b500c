"""Models that cannot be cut are refused by name, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.sparse import SparseSemiStructuredTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from secateur.errors import UsageError
from secateur.model.parameters import unwrapped
from secateur.pruning.adapters import merged_already

_TORCH = (
    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
    "torch.distributed.checkpoint.state_dict"
)
_DEEPSPEED = (
    "get_fp32_state_dict_from_zero_checkpoint(folder) of deepspeed.utils.zero_to_fp32, after "
    "engine.save_checkpoint(folder),"
)
_SHARDED = {
    "FullyShardedDataParallel": ("FSDP", _TORCH),
    "FSDPModule": ("FSDP", _TORCH),
    "DeepSpeedEngine": ("DeepSpeed", _DEEPSPEED),
    "DTensor": ("FSDP or tensor parallelism (DTensor)", _TORCH),
    "ds_id": ("DeepSpeed ZeRO-3", _DEEPSPEED),
}
"""Classes of modules and of tensors, and a tensor's attribute, by which sharding is known, and
what gathers the weights then."""

_HOOKS: dict[type, str] = {
    BasePruningMethod: (
        "is masked by torch.nn.utils.prune; make its masks permanent with "
        "secateur.from_torch_prune(model), which returns them"
    ),
    WeightNorm: (
        "computes its weight by torch.nn.utils.weight_norm in every pass; remove that with "
        "torch.nn.utils.remove_weight_norm first"
    ),
    SpectralNorm: (
        "computes its weight by torch.nn.utils.spectral_norm in every pass; remove that with "
        "torch.nn.utils.remove_spectral_norm first"
    ),
}
"""Hooks that replace a weight in every pass."""


def refuse_unprunable(model: object) -> nn.Module:
    """Return the module inside wrappers, if it is one whose weights can be ranked and cut.

    Raises:
        UsageError: it is not a module; it is compiled to TorchScript, sharded, quantised, masked by
            torch.nn.utils.prune, or under a weight or spectral norm of hooks; its adapters are
            merged for now; or it has parameters without values, in a sparse layout, or
            that share memory in part. Names the first such parameter or layer.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"only a torch module can be pruned, but this is of type {type(model).__name__}; build "
            "the model, and load its state dict into it if that is what you have"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "this is a ScriptModule (TorchScript), whose weights cannot be cut; prune the module "
            "that it was made from, and script it afterwards"
        )
    inner = unwrapped(model)
    refuse_sharded(inner)
    for fault in chain(_layers(inner), _tensors(inner), _shared_memory(inner)):
        raise UsageError(fault)
    if (path := merged_already(inner)) is not None:
        raise UsageError(
            f"{path} has its adapter merged into its weight for now, and taking it out again would "
            "fill the zeros; call unmerge_adapter() first, or merge_and_unload() for good"
        )
    return inner


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which each process holds only a part: ranking takes all weights.

    Raises:
        UsageError: the model is under FSDP, DeepSpeed or tensor parallelism; says which.
    """
    modules = (kind.__name__ for module in model.modules() for kind in type(module).__mro__)
    tensors = (type(parameter.data).__name__ for parameter in model.parameters())
    marks = ("ds_id" for parameter in model.parameters() if hasattr(parameter, "ds_id"))
    found = next(
        (_SHARDED[sign] for sign in chain(modules, tensors, marks) if sign in _SHARDED), None
    )
    if found is not None:
        raise UsageError(
            f"the model is sharded by {found[0]}, but gates and masks take every weight in every "
            "process; train with DDP or in one process, or prune the gathered model afterwards: "
            f"{found[1]} gives its weights"
        )


def refuse_inference(model: nn.Module) -> None:
    """Refuse to cut a model in place whose tensors may not be changed.

    Raises:
        UsageError: a parameter was made in inference mode; names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise UsageError(
                f"{name!r} was made in inference mode and cannot be changed in place; leave out "
                "in_place, or build the model outside of inference_mode"
            )


def not_plain(tensor: Tensor) -> str | None:
    """Return what is wrong with a tensor that packs its values into others; None where it is plain.

    Quantised and 2:4 weights of torchao and torch.sparse are such.
    """
    kind, packed = type(tensor), bool(is_traceable_wrapper_subclass(tensor))
    if not packed:
        return None
    if issubclass(kind, SparseSemiStructuredTensor):
        return (
            f"is a {kind.__name__}, which holds no plain weights; load "
            "secateur.convert_state_dict(model.state_dict())[0] into the model as it was before"
        )
    return (
        f"is a {kind.__name__} of {kind.__module__.partition('.')[0]}, which holds no plain "
        "weights; give the model from before it was converted"
    )


def _layers(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        kind = type(module)
        where = f"{path or 'the model'} ({kind.__name__})"
        if "quantized" in kind.__module__.split("."):
            yield f"{where} is quantised; prune the model before it is quantised"
        for hook in module._forward_pre_hooks.values():
            yield from (f"{where} {why}" for of, why in _HOOKS.items() if isinstance(hook, of))


def _tensors(model: nn.Module) -> Iterator[str]:
    """Say what makes parameters impossible to cut."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            yield f"{name!r} is not initialised yet: run the model once"
        elif parameter.is_meta:
            yield f"{name!r} is on the meta device and has no values; build the model with values"
        elif parameter.layout != torch.strided:
            layout = parameter.layout
            yield f"{name!r} has a sparse layout ({layout}); make it dense with to_dense()"
        elif (fault := not_plain(parameter.data)) is not None:
            yield f"{name!r} {fault}"
        elif any(
            stride == 0 and size > 1
            for stride, size in zip(parameter.stride(), parameter.shape, strict=True)
        ):
            yield f"{name!r} is expanded: several weights are one number; make it contiguous"


def _shared_memory(model: nn.Module) -> Iterator[str]:
    """Find parameters that are views of the same memory: cutting one would cut the other."""
    spans = sorted(
        (hash(parameter.device), *_span(parameter), name)
        for name, parameter in model.named_parameters()
        if parameter.numel()
    )
    for (device, _, end, one), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            yield (
                f"{one!r} and {other!r} are two parameters over the same memory; share the "
                "parameter itself (tie the weights), or clone one of them"
            )


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return where a tensor's memory begins and ends."""
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (reach + 1) * tensor.element_size()
