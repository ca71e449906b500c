"""Models with PEFT adapters: the base is cut, the adapters stay, and merging keeps the zeros.

PEFT is known by the names of its classes, without an import.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.arguments import a, checked
from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.selecting.masks import Masks

ADAPTER = "of an adapter"
COPIED = "kept by PEFT beside a trained copy"


def _is(module: nn.Module, kind: str) -> bool:
    return any(base.__name__ == kind for base in type(module).__mro__)


def adapted(model: nn.Module) -> bool:
    """Return whether a model has adapters of PEFT, whose base is frozen."""
    kinds = ("BaseTunerLayer", "PeftModel")
    return any(_is(module, kind) for module in unwrapped(model).modules() for kind in kinds)


def merged_already(model: nn.Module) -> str | None:
    """Return the path of a layer into whose weight PEFT has merged its adapter for now, or None."""
    return next(
        (
            path
            for path, module in unwrapped(model).named_modules()
            if _is(module, "BaseTunerLayer") and getattr(module, "merged", False)
        ),
        None,
    )


def beside_the_base(model: nn.Module, *, adapters: bool = True) -> dict[int, str]:
    """Return id of each parameter that is not the base's → what it is: ADAPTER or COPIED.

    Args:
        model: looked at through its wrappers.
        adapters: include those, and not only copies.
    """
    found: dict[int, str] = {}
    for module in unwrapped(model).modules():
        if _is(module, "BaseTunerLayer"):
            base = getattr(module, "base_layer", None)
            own = {id(p) for p in base.parameters()} if isinstance(base, nn.Module) else set()
            found |= {id(p): ADAPTER for p in module.parameters() if id(p) not in own}
        elif _is(module, "PeftModel") and isinstance(
            prompts := getattr(module, "prompt_encoder", None), nn.Module
        ):
            found |= {id(p): ADAPTER for p in prompts.parameters()}
        elif _is(module, "ModulesToSaveWrapper"):
            original: Any = module.original_module
            found |= {id(p): COPIED for p in original.parameters()}
    return {key: what for key, what in found.items() if adapters or what == COPIED}


@contextmanager
def thawed(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Let frozen parameters of a model with adapters take gradients inside the block."""
    frozen = [w for w in parameters(model, names).values() if not w.requires_grad]
    if not frozen or not adapted(model):
        yield
        return
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@checked(model=a(nn.Module, "a torch module"), masks=a(Masks, "Masks, as result.masks"))
def merge_adapters(model: nn.Module, masks: Masks) -> tuple[nn.Module, Masks]:
    """Merge PEFT adapters into a pruned base, and cut what they have put into its zeros.

    An adapter's product has no zeros, so that merging alone fills them all. What the adapter
    says at cut weights is lost with them: compare the model's accuracy before and after, and
    train with `masks.hold` after it where that costs too much.

    Args:
        model: as `prune` returned it, trained since or not; merged in place, as PEFT does it.
        masks: by the names in the model: `result.masks`; those of adapters go with them.

    Returns:
        the model without adapters, and its masks by the names that it has.

    Raises:
        UsageError: the model has no adapters that can be merged, or the masks are not its own.
    """
    inner: Any = unwrapped(model)
    weights, beside = parameters(inner, tuple(masks)), beside_the_base(inner)
    kept = {id(weight): masks[n] for n, weight in weights.items() if id(weight) not in beside}
    if callable(getattr(inner, "merge_and_unload", None)):
        merged: nn.Module = inner.merge_and_unload()
    else:
        merged = _unloaded(inner)
    names = {id(weight): name for name, weight in merged.named_parameters()}
    left = {names[key]: mask for key, mask in kept.items() if key in names}
    if not left or len(left) != len(kept):
        raise UsageError(
            f"{len(kept) - len(left)} of the {len(kept)} masked parameters of the base are none of "
            "the merged model; give the masks of its weights, result.masks of prune"
        )
    found = Masks(left)
    found.apply(merged)
    return merged, found


def _unloaded(model: nn.Module) -> nn.Module:
    """Merge the adapters that a model has without PEFT's wrapper, as `add_adapter` puts them in."""
    tuned = [path for path, module in model.named_modules() if _is(module, "BaseTunerLayer")]
    if not tuned:
        raise UsageError(
            f"{type(model).__name__} has no adapters that can be merged into its weights; prompts "
            "and models without PEFT are saved as they are"
        )
    for path in tuned:
        layer: Any = model.get_submodule(path)
        layer.merge()
        model.set_submodule(path, layer.get_base_layer())
    return model
