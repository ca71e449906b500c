"""Models that cannot be cut are refused by name, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from secateur.errors import UsageError
from secateur.model.parameters import unwrapped

_SHARDED = {
    "FullyShardedDataParallel": "FSDP",
    "FSDPModule": "FSDP",
    "DeepSpeedEngine": "DeepSpeed",
}


def refuse_unprunable(model: object) -> nn.Module:
    """Return the module inside wrappers, if it is one whose weights can be ranked and cut.

    Raises:
        UsageError: it is none, or one that is compiled to TorchScript, sharded, quantised, masked
            by torch.nn.utils.prune, or has parameters without values, in a sparse layout, or that
            share memory in part; names the first such parameter or layer.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a torch module is what can be pruned, but this is a {type(model).__name__}; build "
            "the model, and fill it with its state dict if that is what you have"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "this is a ScriptModule (TorchScript), whose weights cannot be cut; prune the module "
            "that it was made from, and script it afterwards"
        )
    inner = unwrapped(model)
    refuse_sharded(inner)
    if reason := next(_layers(inner), None):
        raise UsageError(reason)
    for name, parameter in inner.named_parameters():
        if wrong := _tensor(parameter):
            raise UsageError(f"{name!r} {wrong}")
    _refuse_shared_memory(inner)
    return inner


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which every process holds only a part: ranking takes all weights.

    Raises:
        UsageError: the model is under FSDP, DeepSpeed or tensor parallelism; says which.
    """
    kinds = (kind.__name__ for module in model.modules() for kind in type(module).__mro__)
    found = next((_SHARDED[kind] for kind in kinds if kind in _SHARDED), None)
    for parameter in model.parameters():
        if found is None and type(parameter.data).__name__ == "DTensor":
            found = "FSDP or tensor parallelism (DTensor)"
        if found is None and hasattr(parameter, "ds_id"):
            found = "DeepSpeed ZeRO-3"
    if found is not None:
        raise UsageError(
            f"the model is sharded by {found}, but gates and masks take every weight in every "
            "process; train with DDP or in one process, or prune the gathered model afterwards"
        )


def refuse_inference(model: nn.Module) -> None:
    """Refuse, before it is cut in place, a model whose tensors nobody may change.

    Raises:
        UsageError: a parameter was made in inference mode; names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise UsageError(
                f"{name!r} was made in inference mode and cannot be changed in place; leave out "
                "in_place, or build the model outside of inference_mode"
            )


def _layers(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        kind = type(module)
        where = f"{path or 'the model'} ({kind.__name__})"
        if "quantized" in kind.__module__.split("."):
            yield f"{where} is quantised; prune the model before it is quantised"
        hooks = list(module._forward_pre_hooks.values())
        if any(isinstance(hook, BasePruningMethod) for hook in hooks):
            yield (
                f"{where} is masked by torch.nn.utils.prune; make its masks permanent with "
                "secateur.from_torch_prune(model), which returns them"
            )
        if any(isinstance(hook, WeightNorm) for hook in hooks):
            yield (
                f"{where} computes its weight anew by torch.nn.utils.weight_norm; take that away "
                "with torch.nn.utils.remove_weight_norm first"
            )


def _tensor(parameter: Tensor) -> str | None:
    """Return what makes a parameter impossible to cut, or None."""
    if isinstance(parameter, nn.UninitializedParameter):
        return "is not initialised yet: run the model once"
    if parameter.is_meta:
        return "is on the meta device and has no values; build the model with values"
    if parameter.layout != torch.strided:
        return f"has a sparse layout ({parameter.layout}); make it dense with to_dense()"
    if parameter.numel() > 1 and 0 in parameter.stride():
        places = zip(parameter.stride(), parameter.shape, strict=True)
        if any(stride == 0 and size > 1 for stride, size in places):
            return "is expanded: several of its weights are one number; make it contiguous"
    return None


def _refuse_shared_memory(model: nn.Module) -> None:
    """Refuse parameters that are views of the same memory: cutting one would cut the other."""
    spans: list[tuple[int, int, int, str]] = []
    for name, parameter in model.named_parameters():
        if parameter.numel():
            start = parameter.data_ptr()
            reach = sum(
                (n - 1) * s for n, s in zip(parameter.shape, parameter.stride(), strict=True)
            )
            end = start + (reach + 1) * parameter.element_size()
            spans.append((hash(parameter.device), start, end, name))
    spans.sort()
    for (device, _, end, one), (other_device, start, _, other) in pairwise(spans):
        if device == other_device and start < end:
            raise UsageError(
                f"{one!r} and {other!r} are two parameters over the same memory; share the "
                "parameter itself (tie the weights), or clone one of them"
            )
