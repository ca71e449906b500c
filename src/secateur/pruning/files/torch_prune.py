"""Models that other tools have cut become plain ones, and their masks secateur's.

torch.nn.utils.prune keeps a parameter `weight_orig` and a buffer `weight_mask` in place of
`weight`, and multiplies them anew before every pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from secateur.arguments import Wanted, a, checked, shown
from secateur.errors import UsageError
from secateur.model.parameters import unwrapped
from secateur.pruning.files import foreign
from secateur.pruning.selecting.masks import Masks

ORIGINAL, MASK = "_orig", "_mask"


@dataclass(frozen=True)
class _Cut:
    """One tensor of one module that torch has cut."""

    module: nn.Module
    leaf: str
    name: str
    weight: nn.Parameter
    kept: Tensor


@checked(model=a(nn.Module, "a torch module"))
def from_torch_prune(model: nn.Module) -> Masks:
    """Make the cuts of torch.nn.utils.prune final, and return them.

    Every parameter has its own name back, and holds exact zeros where it was cut: +0.0, even
    where the weight underneath was NaN or infinite. The hooks are gone. The parameters are the
    very tensors that an optimizer may hold.

    Args:
        model: changed in place; looked at through its wrappers.

    Raises:
        UsageError: nothing is cut, a weight has no mask or a mask of another shape or with
            other values than 0 and 1, or a weight is shared with a layer that is cut otherwise.
            Names it; nothing was changed.
    """
    cuts = _cuts(unwrapped(model))
    if not cuts:
        raise UsageError(
            "the model has no parameter that torch.nn.utils.prune has cut; for any other model "
            "use secateur.prune"
        )
    _refuse_shared(unwrapped(model), cuts)
    for cut in cuts:
        module, leaf = cut.module, cut.leaf
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, BasePruningMethod) and hook._tensor_name == leaf:
                del module._forward_pre_hooks[key]
        with torch.no_grad():
            cut.weight.masked_fill_(cut.kept.logical_not(), 0)
        module.__dict__.pop(leaf, None)  # the product of the last pass
        del module._parameters[leaf + ORIGINAL], module._buffers[leaf + MASK]
        setattr(module, leaf, cut.weight)  # recurrent layers keep a list of their own up to date
    once = {id(cut.weight): cut for cut in reversed(cuts)}  # a shared one under its first name
    return Masks({cut.name: cut.kept for cut in once.values()})


@checked(
    state=Wanted(
        lambda v: isinstance(v, Mapping) and all(isinstance(name, str) for name in v),
        "a state dict: name → tensor",
    )
)
def convert_state_dict(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Masks]:
    """Return a state dict that another tool has cut with plain weights, and their masks.

    Args:
        state: of a model that torch.nn.utils.prune has cut; or with weights as torchao and
            torch.sparse hold two of every four (`SparseSemiStructuredTensor`); or as SparseML,
            llm-compressor and compressed-tensors store them without zeros. Not changed.

    Returns:
        name → tensor: `x` in the place of `x_orig` and `x_mask`, or of `x.compressed` and what
        stands beside it, with exact zeros where it is cut; all else as it is, not copied.

    Raises:
        UsageError: as `from_torch_prune`; or there is an `x` beside `x_orig`; or the parts of a
            weight do not fit together.
    """
    try:
        state, stored = foreign.expanded(state)
    except ValueError as error:
        raise UsageError(f"the state dict cannot be converted: {error}") from error
    plain: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = dict(stored)
    for name, tensor in state.items():
        own = name.removesuffix(ORIGINAL)
        if name.endswith(MASK) and name.removesuffix(MASK) + ORIGINAL in state:
            continue
        if own == name:
            plain[name] = tensor
            continue
        if own in state:
            raise UsageError(f"the state dict has both {own!r} and {name!r}; leave one of them out")
        masks[own] = _kept(own, tensor, state.get(own + MASK))
        plain[own] = tensor.masked_fill(masks[own].logical_not(), 0)
    if not masks:
        raise UsageError(
            "the state dict has no names ending in '_orig' or '.compressed' and no 2:4 tensors; it "
            "is not of a model that another tool has cut, and needs no conversion"
        )
    return plain, Masks(masks)


def _cuts(model: nn.Module) -> list[_Cut]:
    cuts: list[_Cut] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        hooks = module._forward_pre_hooks.values()
        hooked = {hook._tensor_name for hook in hooks if isinstance(hook, BasePruningMethod)}
        cut = [n.removesuffix(ORIGINAL) for n in module._parameters if n.endswith(ORIGINAL)]
        for leaf in [*cut, *sorted(hooked.difference(cut))]:
            weight = module._parameters.get(leaf + ORIGINAL)
            if weight is None:
                raise UsageError(
                    f"{prefix + leaf!r} has a hook of torch.nn.utils.prune, but there is no "
                    f"{prefix + leaf + ORIGINAL!r}; load the whole model as torch saved it"
                )
            if leaf in module._parameters:
                raise UsageError(
                    f"the model has both {prefix + leaf!r} and {prefix + leaf + ORIGINAL!r}; "
                    "leave one of them out"
                )
            kept = _kept(prefix + leaf, weight, module._buffers.get(leaf + MASK))
            cuts.append(_Cut(module, leaf, prefix + leaf, weight, kept))
    return cuts


def _kept(name: str, weight: Tensor, mask: Tensor | None) -> Tensor:
    """Return a mask as bools, if it is one."""
    if mask is None:
        raise UsageError(
            f"there is {name + ORIGINAL!r}, but no {name + MASK!r}; give both, as "
            f"torch.nn.utils.prune makes them, or rename the one to {name!r}"
        )
    for what, tensor in ((name + MASK, mask), (name + ORIGINAL, weight)):
        if not isinstance(tensor, Tensor):
            raise UsageError(f"{what!r} of the state is {shown(tensor)}, but must be a tensor")
    if mask.shape != weight.shape:
        raise UsageError(
            f"{name + MASK!r} has shape {tuple(mask.shape)}, but {name + ORIGINAL!r} "
            f"{tuple(weight.shape)}; they belong to different models"
        )
    kept = mask.to(weight.device) != 0
    if not torch.equal(kept.to(mask.dtype), mask.to(weight.device)):
        raise UsageError(
            f"{name + MASK!r} has other values than 0 and 1, so that it cuts nothing clearly; "
            "give a mask of 0 and 1"
        )
    return kept


def _refuse_shared(model: nn.Module, cuts: list[_Cut]) -> None:
    """Refuse a weight that another layer uses otherwise: zeros here would be zeros there."""
    by_place = {(id(cut.module), cut.leaf + ORIGINAL): cut for cut in cuts}
    first: dict[int, _Cut] = {}
    for cut in cuts:
        other = first.setdefault(id(cut.weight), cut)
        if not torch.equal(other.kept, cut.kept):
            raise UsageError(
                f"{other.name!r} and {cut.name!r} are one parameter, but are cut differently; "
                "cut both alike, or untie them first"
            )
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            shared = first.get(id(parameter))
            if shared and (id(module), leaf) not in by_place:
                name = f"{path}.{leaf}" if path else leaf
                raise UsageError(
                    f"{shared.name!r} and {name!r} are one parameter, but only the first is cut; "
                    "cut both alike, or untie them first"
                )
