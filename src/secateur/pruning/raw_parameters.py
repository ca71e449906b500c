"""Raw parameters, those that no known layer owns: which are weights, by what they are called.

A layer of torch says what its parameters are for; a raw parameter is only a tensor with a name.
Position tables, tokens, scales and routers are added, looked up or few, and a cut of them costs
much and saves nothing. So a raw parameter counts as a weight only where its name says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

UNKNOWN = "not known to be a weight"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KINDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("position table", frozenset("pos position positions positional ape rpe rpb".split())),
    ("embedding table", frozenset("emb embs embed embeds embedding embeddings table".split())),
    ("bias or norm", frozenset("bias biases norm layernorm rmsnorm batchnorm".split())),
    (
        "token or query",
        frozenset("token tokens query queries latent latents prompt prompts probe pad".split()),
    ),
    (
        "scale",
        frozenset("scale scales scaling gamma beta alpha lambda temperature layerscale".split()),
    ),
)
"""What names say that belong to no weight: reason → words, of which one is enough."""
_OF_OWNERS = 3
"""The first kinds, which the class of the owner may say instead."""
_CONSTANTS = re.compile(r"A|D|dt|A_?log|time_(decay|first|mix\w*)", re.IGNORECASE)
_ROUTERS = frozenset({"router", "routers", "gating"})
_PROJECTIONS = frozenset({"proj", "projection"})
_WEIGHTS = frozenset(
    "weight weights proj projs projection projections kernel kernels matrix matrices filter "
    "filters linear dense lora".split()
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
    if isinstance(owner, (nn.ParameterList, nn.ParameterDict)) and path:
        leaf = leaf if not leaf.isdigit() else path[-1]
        owner_says = {word for part in path[-2:] for word in _words(part)}
    else:
        owner_says = set(_words(type(owner).__name__))
    if _CONSTANTS.fullmatch(leaf):
        return "state-space constant"
    words = _words(leaf)
    # a projection of positions or tokens is a weight, and a table of them is none
    said_of_it = () if words[-1:] and words[-1] in _PROJECTIONS else words
    for reason, said in _KINDS:
        if said.intersection(said_of_it):
            return reason
    for reason, said in _KINDS[:_OF_OWNERS]:
        if said & owner_says:
            return reason
    place = set(_words(path[-1])) if path else set()
    if (owner_says | place) & _ROUTERS:
        return "router"
    # a gate may be a gated layer's, too; that of experts has fewer outputs than inputs
    if "gate" in owner_says | place and parameter.shape[0] < parameter.shape[-1]:
        return "router"
    if _WEIGHTS.intersection(words) or _SHORT.fullmatch(leaf):
        return None
    return UNKNOWN


def is_router(owner: nn.Module) -> bool:
    """Return whether a module's class says that it is a router of experts."""
    return bool(_ROUTERS.intersection(_words(type(owner).__name__)))


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
