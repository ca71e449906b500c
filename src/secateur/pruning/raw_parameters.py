"""Raw parameters, those that no known layer owns: which are weights, by what they are called.

A layer of torch says what its parameters are for; a raw parameter is only a tensor with a name.
Position tables, tokens, scales and routers are added, looked up or few, and a cut of them costs
much and saves nothing. So a raw parameter counts as a weight only where its name says so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from torch import Tensor, nn

UNKNOWN = "not known to be a weight"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KINDS = {
    "position table": r"pos|positions?|positional|ape|rpe|rpb",
    "embedding table": r"embs?|embeds?|embeddings?|table",
    "bias or norm": r"bias|biases|norm|layernorm|rmsnorm|batchnorm",
    "token or query": r"tokens?|query|queries|latents?|prompts?|probe|pad",
    "scale": r"scales?|scaling|gamma|beta|alpha|lambda|temperature|layerscale",
}
"""What names say that belong to no weight: reason → words, of which one is enough."""
_OWNED = ("position table", "embedding table", "bias or norm")
"""The kinds that the class of the owner may say instead."""
_CONSTANT = re.compile(r"A|D|dt|A_?log|time_(decay|first|mix\w*)", re.IGNORECASE)
_PROJECTION = re.compile(r"proj|projection")
_WEIGHT = re.compile(
    r"weights?|projs?|projections?|kernels?|matrix|matrices|filters?|linear|dense|lora"
)
_SHORT = re.compile(r"[wuv]\d*|[wu]_?[a-z]|up|down|[qkvo]", re.IGNORECASE)
"""Names of a few letters that are weights: w, W1, W_q, wo, up, and XLNet's q, k, v and o."""
_OF_LAYERS = re.compile(r"weight|weight_\w+|[a-z]+_proj_weight|bias|bias_\w+|in_proj_bias")


def is_raw(name: str, owner: nn.Module, layers: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a parameter is none of those that a known layer has by itself.

    Args:
        name: of the parameter.
        owner: the module that it is registered in; a layer's subclass may own raw ones too.
        layers: the classes that are known.
    """
    theirs = type(owner).__name__ == "Conv1D" and hasattr(owner, "nf")  # transformers'
    if not (theirs or isinstance(owner, layers)):
        return True
    return _OF_LAYERS.fullmatch(name.rpartition(".")[2]) is None


def no_weight(name: str, owner: nn.Module, parameter: Tensor) -> str | None:
    """Return why a raw parameter of two or more dimensions is not cut by default, or None.

    Args:
        name: of the parameter; in a list or dict of parameters, the list's name stands for it.
        owner: the module that it is registered in.
        parameter: only its shape is looked at.
    """
    *path, leaf = name.split(".")
    owner_says = _words(type(owner).__name__)
    if isinstance(owner, (nn.ParameterList, nn.ParameterDict)) and path:
        leaf = path[-1] if leaf.isdigit() else leaf
        owner_says = [word for part in path[-2:] for word in _words(part)]
    words = _words(leaf)
    if _CONSTANT.fullmatch(leaf):
        return "state-space constant"
    # a projection of positions or tokens is a weight, and a table of them is none
    projection = bool(words) and _PROJECTION.fullmatch(words[-1]) is not None
    if why := (None if projection else _kind(words)) or _kind(owner_says, _OWNED):
        return why
    # a gate may be a gated layer's, too; that of experts has fewer outputs than inputs
    gate = "gate" in owner_says or "gate" in path[-1:]
    if is_router(name, owner) or (gate and parameter.shape[0] < parameter.shape[-1]):
        return "router"
    weight = any(map(_WEIGHT.fullmatch, words)) or _SHORT.fullmatch(leaf)
    return None if weight else UNKNOWN


def _kind(words: Sequence[str], among: Collection[str] = tuple(_KINDS)) -> str | None:
    """Return what words say of a parameter that is no weight, the first reason of some."""
    found = (why for why in among if any(re.fullmatch(_KINDS[why], word) for word in words))
    return next(found, None)


def is_router(name: str, owner: nn.Module) -> bool:
    """Return whether a parameter's path, or its owner's class, says that it routes to experts."""
    said = {*_words(type(owner).__name__), *name.split(".")[:-1]}
    return "router" in said


def declared_axis(owner: nn.Module, parameter: Tensor) -> int | None:
    """Return which dimension of a raw parameter counts inputs, where its owner says so, or None.

    Fused experts of transformers 5 (`use_experts_implementation`) say whether theirs are
    [experts, outputs, inputs] (-1) or [experts, inputs, outputs] (-2).
    """
    transposed: object = getattr(owner, "is_transposed", None)
    experts = isinstance(transposed, bool) and hasattr(owner, "has_gate")
    if not experts or parameter.dim() != 3:
        return None
    return -2 if transposed else -1


def known_axis(axes: Sequence[int | None]) -> int | None:
    """Return the one axis that those who know one agree about, or None."""
    known = {axis for axis in axes if axis is not None}
    return known.pop() if len(known) == 1 else None


def _words(name: str) -> list[str]:
    """Return the words of a snake_case or CamelCase name, in small letters."""
    return [word.lower() for word in _WORDS.findall(name)]
