"""Which raw parameters, those that no known layer owns, are weights: their names decide.

A layer of torch says what its parameters are for; a raw parameter is only a tensor with a name.
Position tables, tokens, scales and routers are added, looked up or small: cutting them costs much
and saves nothing. So a raw parameter counts as a weight only if its name says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from secateur.pruning.layers import is_transposed

UNKNOWN = "not known to be a weight"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_KINDS = {
    "position table": r"pos|positions?|positional|ape|rpe|rpb",
    "embedding table": r"embs?|embeds?|embeddings?|table",
    "bias or norm": r"bias|biases|norm|layernorm|rmsnorm|batchnorm",
    "token or query": r"tokens?|query|queries|latents?|prompts?|probe|pad",
    "scale": r"scales?|scaling|gamma|beta|alpha|lambda|temperature|layerscale",
}
"""Words in names of parameters that are not weights: reason → words, of which one is enough."""
_OWNED = {
    "position table": _KINDS["position table"],
    "embedding table": _KINDS["embedding table"] + r"|lookup|vocab|vocabulary|vectors",
    "bias or norm": _KINDS["bias or norm"],
}
"""Words in the owner's class that decide where the name, such as `weight`, says nothing."""
_LAYERS = re.compile(
    r"linear|dense|fc|projections?|proj|conv|ffn|forward|mlp|mixer|head|attention|attn|cell|lstm"
    r"|gru|rnn"
)
"""Last words of classes that are layers; their other words do not describe their weights."""
_ENDINGS = ("d", "layer", "block", "module", "v")
"""Last words of classes that are ignored."""
_CONSTANT = re.compile(r"A|D|dt|A_?log|time_(decay|first|mix\w*)", re.IGNORECASE)
_PROJECTION = re.compile(r"proj|projection")
_WEIGHT = re.compile(
    r"weights?|projs?|projections?|kernels?|matrix|matrices|filters?|linear|dense|lora|w?qkv|fc"
)
_SHORT = re.compile(
    r"[Ww][a-z](_?\d+)?|[Ww](kv|qk|in|out)|[UV]\d*|U_?[a-z]|up|down|kv|experts?|[qo]"
)
"""Short names of weights: Wq, wi_0, up, XLNet's q and o."""
_TABLE = "W_E"
"""TransformerLens's embedding table."""
_NEUTRAL = re.compile(r"weights?|kernels?|matrix|w|[uv]\d*", re.IGNORECASE)
_NOT_A_WEIGHT = re.compile(
    r"masks?|adj|adjacency|transitions?|laplacian|affinity|covariance|distances?|costs?|loss|losses"
    r"|rel|relative|freqs?|mem|memory|null"
)
"""Words that weights never have: `weight_mask`, `adjacency_matrix`, `rel_w`."""
_IMPORTANCE = re.compile(r"(layers?|class|classes|tasks?|samples?)_weights?")
_ROUTER = {"router", "routers", "routing"}
_EXPERTS = {"expert", "experts"}
_GATES = {"gate", "gates", "gating"}
_GATE = re.compile(
    r"(\w+_)?(gates?|gating)(_?(weights?|kernels?|layer|linear|fc|net|network|logits?))?"
    r"|wg|w_(g|gate|gating|noise)"
)
"""Names of gates, as their words joined by underscores."""
_INNER = {"lstm", "gru", "rnn", "cell", "recurrent", "highway", "glu", "gated"}
"""Words of classes whose gates weigh features, not experts."""
_OF_LAYERS = re.compile(r"weight|weight_\w+|[a-z]+_proj_weight|bias|bias_\w+|in_proj_bias")


def is_raw(name: str, owner: nn.Module, layers: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a parameter is not one that a known layer has by itself.

    Args:
        name: of the parameter.
        owner: the module that registers it; a subclass of a layer may own raw ones too.
        layers: the known classes.
    """
    layer = isinstance(owner, layers) or is_transposed(owner)
    return not layer or _OF_LAYERS.fullmatch(name.rpartition(".")[2]) is None


def not_a_weight(name: str, owner: nn.Module, parameter: Tensor) -> str | None:
    """Return why a raw parameter of two or more dimensions is not cut by default, or None.

    Args:
        name: of the parameter; in a list or dict of parameters, the list's name counts too.
        owner: the module that registers it.
        parameter: only its shape is used.
    """
    *path, leaf = name.split(".")
    kind = _words(type(owner).__name__)
    listed = isinstance(owner, (nn.ParameterList, nn.ParameterDict)) and bool(path)
    if listed:
        leaf = path[-1] if leaf.isdigit() else leaf
    words = _words(leaf)
    if _CONSTANT.fullmatch(leaf):
        return "state-space constant"
    # a gated layer has gates too; the gate of experts has fewer outputs than inputs
    gate = "gate" in path[-1:] and not _INNER.intersection(kind)
    if is_router(name, owner) or (gate and parameter.shape[0] < parameter.shape[-1]):
        return "router"
    weight = _named_weight(leaf, words, owner)
    if why := "embedding table" if leaf == _TABLE else _said(words):
        return why
    if listed:
        why = _kind([word for part in path[-2:] for word in _words(part)], _OWNED)
    elif not (weight and _NEUTRAL.fullmatch(leaf) is None) and not _is_layer(kind):
        why = _kind(kind, _OWNED)
    return why or (None if weight else UNKNOWN)


def _said(words: Sequence[str]) -> str | None:
    """Return what the words of a name say a parameter is, if not a weight."""
    if not words or _PROJECTION.fullmatch(words[-1]):
        return None  # a projection of positions or tokens is a weight, unlike a table of them
    kinds = dict(_KINDS)
    if words[0] == "w" or re.fullmatch(r"w|weights?|kernels?|w?qkv", words[-1]):
        del kinds["token or query"]  # W_query makes queries
    return _kind(words, kinds)


def _named_weight(leaf: str, words: Sequence[str], owner: nn.Module) -> bool:
    """Return whether a parameter's own name says that it is a weight."""
    if any(map(_NOT_A_WEIGHT.fullmatch, words)) or _IMPORTANCE.fullmatch(leaf):
        return False
    if leaf in ("k", "v"):  # in attention; Transformer-XL's u and v are biases
        return isinstance(getattr(owner, "q", None), Tensor)
    w = "w" in (*words[:1], *words[-1:])
    return w or any(map(_WEIGHT.fullmatch, words)) or _SHORT.fullmatch(leaf) is not None


def _is_layer(words: Sequence[str]) -> bool:
    """Return whether a class is a layer with weights, such as RMSNormLinear."""
    last = next((word for word in reversed(words) if word not in _ENDINGS), "")
    return _LAYERS.fullmatch(last) is not None


def _kind(words: Sequence[str], kinds: Mapping[str, str]) -> str | None:
    """Return the first reason of `kinds`, reason → words, that one of the words gives."""
    found = (why for why in kinds if any(re.fullmatch(kinds[why], word) for word in words))
    return next(found, None)


def is_router(name: str, owner: nn.Module) -> bool:
    """Return whether a parameter's path, or its owner's class, says that it routes to experts."""
    kind = set(_words(type(owner).__name__))
    chooses = "moe" in kind or "topk" in kind or {"top", "k"} <= kind or kind & _EXPERTS
    if kind & {"router", "routers"} or (chooses and kind & _GATES):
        return True
    return any(_ROUTER.intersection(_words(part)) for part in name.split("."))


def routing_gates(model: nn.Module) -> frozenset[int]:
    """Return the ids of the parameters of gates that lie beside experts.

    What is called a gate (`gate`, `shared_expert_gate`, `wg`) may be part of a gated MLP, too. In
    a module that has experts it chooses among them, if it gives fewer features than it takes.
    """
    found: set[int] = set()
    for module in filter(_has_experts, model.modules()):
        for name, child in module.named_children():
            if _is_gate(name):
                found |= {id(weight) for weight in child.parameters() if _narrows(weight)}
        for name, raw in module.named_parameters(recurse=False):
            if _is_gate(name) and (_narrows(raw) or _narrows(raw, transposed=True)):
                found.add(id(raw))  # it may be transposed
    return frozenset(found)


def _is_gate(name: str) -> bool:
    return _GATE.fullmatch("_".join(_words(name))) is not None


def _narrows(weight: Tensor, *, transposed: bool = False) -> bool:
    """Return whether a layer's weight gives fewer features than it takes."""
    if isinstance(weight, nn.UninitializedParameter) or weight.dim() != 2:
        return False
    outputs, inputs = weight.shape[::-1] if transposed else weight.shape
    return outputs < inputs


def _has_experts(module: nn.Module) -> bool:
    kind = [word for word in _words(type(module).__name__) if word not in _ENDINGS]
    if kind[-1:] == ["moe"] or "mixture" in kind:
        return True
    inside = (*dict(module.named_children()), *dict(module.named_parameters(recurse=False)))
    return any(_words(name)[-1:] in (["expert"], ["experts"]) for name in inside)


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


def _words(name: str) -> list[str]:
    """Return the words of a snake_case or CamelCase name, in small letters."""
    return [word.lower() for word in _WORDS.findall(name.replace("MoE", "Moe"))]
