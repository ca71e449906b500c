"""A pruned model on disk: one safetensors file with its zeros left out, and a JSON description.

The layout is written down in docs/files.md, so that any language can read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from secateur import files
from secateur.arguments import BOOL, FUNCTION, PATH, a, checked
from secateur.errors import FileError, UsageError
from secateur.machine import versions
from secateur.pruning.files import description, model_state, packed
from secateur.pruning.files.description import Architecture, ModelInfo, Stored
from secateur.pruning.files.reading import Facts, read_info, values
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks

MASKS = a(Masks, "Masks (of prune's result, result.masks)")
_MODEL = a((nn.Module, Mapping), "a module or its state dict (of what prune returns, the first)")
BUDGET = a(Budget, "a Budget")


@checked(model=_MODEL, path=PATH, masks=MASKS, gates=BOOL, budget=BUDGET, force=BOOL)
def save(
    model: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    *,
    masks: Masks | None = None,
    gates: bool = False,
    dtype: torch.dtype | None = None,
    budget: Budget | None = None,
    architecture: Architecture | None = None,
    provenance: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write a model to one file, whole or not at all, without its zeros.

    Every bit of what is kept comes back; what was left out comes back as +0.0. Tied weights are
    stored once.

    Args:
        model: a module, or its state dict. Not changed.
        path: of the file; the usual ending is .safetensors.
        masks: of the model, which holds zeros where they cut; `load_masks` gives them back.
        gates: keep the gates too.
        dtype: float16 or bfloat16: weights of float32 and float64 are stored so. Gates and what
            has fewer than two dimensions (biases, norms, statistics) stay as they are.
        budget: what the model was cut to, to be remembered.
        architecture: "module:name" of a function or class that builds the model, or a pair of
            that and its keyword arguments, which JSON must have words for.
        provenance: anything else to be remembered: strings, numbers, lists and dicts of them.
        force: write over a file that `save` did not write, such as the weights that the model was
            loaded from.

    Raises:
        UsageError: a tensor cannot be stored, masks are of another model or not applied, a value
            is too large for the dtype, something is no JSON, or there is a file that `save` did
            not write; says which.
        FileError: the file cannot be written.
    """
    path = Path(path)
    what = "model file of secateur"
    files.refuse_loss(path, lambda there: files.format_of(there) == files.MODEL, what, force=force)
    built_by = description.architecture_of(architecture)
    remembered = description.json_object("provenance", provenance)
    pairs = list(_stored(model, masks, gates, dtype))
    parts = {stored.name: content for stored, content in pairs if content is not None}
    tensors = [stored for stored, _ in pairs]
    info = replace(_info(tensors), architecture=built_by, budget=budget, provenance=remembered)
    sha = hashlib.sha256(info.to_json().encode())
    for content in parts.values():
        sha.update(content.data)
    files.write(path, files.content_of(parts, _metadata(info, sha)))


@checked(model=_MODEL, masks=MASKS, gates=BOOL, budget=BUDGET)
def packed_bytes(
    model: nn.Module | Mapping[str, Tensor],
    *,
    masks: Masks | None = None,
    gates: bool = False,
    dtype: torch.dtype | None = None,
    budget: Budget | None = None,
) -> int:
    """Return the size of the file that `save` would write, in bytes; arguments are the same.

    An architecture and a provenance would add their own length. One tensor is packed at a time,
    so that it takes little memory.
    """
    tensors = [stored for stored, _ in _stored(model, masks, gates, dtype)]
    sizes = {stored.name: stored.size for stored in tensors if stored.tied is None}
    header: dict[str, Any] = {}
    end = 0
    for name, size in sorted(sizes.items()):  # the order that safetensors writes
        start, end = end, end + size
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, end]}
    header["__metadata__"] = _metadata(replace(_info(tensors), budget=budget), hashlib.sha256())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end  # a length, the header in whole words, the tensors


@checked(
    path=PATH,
    model=a(nn.Module, "a module to fill, or factory= one that builds it"),
    factory=FUNCTION,
    trust=BOOL,
)
def load(
    path: str | Path,
    model: nn.Module | None = None,
    *,
    factory: Callable[..., nn.Module] | None = None,
    trust: bool = False,
) -> nn.Module:
    """Read a model that `save` wrote.

    Args:
        path: of the file.
        model: where the values go: has exactly the file's names and shapes, and dtypes that
            hold its values. Its tied weights become those of the file. It gains the file's
            gates, if there are any.
        factory: builds the model, from the arguments of the file's architecture.
        trust: import and call the architecture that the file names. That runs code that whoever
            wrote the file has chosen: only for files of your own.

    Returns:
        the model that was given or built; one that was given is in the same mode.

    Raises:
        FileError: the file cannot be believed, or is of another model: names the first tensor
            that is missing, is too many, or has another shape. The model has not changed.
        UsageError: it was not said how to get a model.
    """
    path = Path(path)
    info = read_info(path)
    if model is None:
        model = build(path, info.architecture, factory, trust)
    if problem := model_state.misfit(model, info.tensors):
        raise FileError(f"{path} is of another model than {type(model).__name__}: {problem}")
    state = values(path, info, packed.unpack)
    if problem := model_state.clash(model, state):
        raise FileError(f"{path} is of another model than {type(model).__name__}: {problem}")
    model_state.fill(model, state, {t.name: t.tied for t in info.tensors if t.tied is not None})
    return model


def build(
    path: Path,
    architecture: tuple[str, Mapping[str, Any]] | None,
    factory: Callable[..., nn.Module] | None,
    trust: bool,
) -> nn.Module:
    """Build the model that a file is of.

    Args:
        path: of the file, for messages.
        architecture: what the file names.
        factory: as in `load`.
        trust: as in `load`.

    Raises:
        UsageError: there is no factory, and the architecture is missing or not trusted.
        FileError: it builds no module.
    """
    name, arguments = architecture or ("", {})
    call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())[:200]
    if factory is None and not (trust and name):
        how = f", such as {name.replace(':', '.')}({call})" if name else ""
        also = "; or trust=True, if the file is your own: it runs that code" if name else ""
        raise UsageError(
            f"{path} holds values, but no code: build the model{how} and give it to load"
            f"(path, model){also}. read(path) gives the state dict alone"
        )
    try:
        if factory is None:
            module, _, attribute = name.partition(":")
            factory = attrgetter(attribute)(import_module(module))
        model = factory(**arguments)
    except Exception as error:  # whatever the builder may raise
        raise FileError(
            f"the model of {path} cannot be built by {name or factory} with ({call}): {error}; "
            "build it yourself and give it to load(path, model)"
        ) from error
    if not isinstance(model, nn.Module):
        raise FileError(
            f"{name or factory} built no module for {path}, but {type(model).__name__}; "
            "build it yourself and give it to load(path, model)"
        )
    return model


# Writing.


def _stored(
    model: nn.Module | Mapping[str, Tensor],
    masks: Masks | None,
    gates: bool,
    dtype: torch.dtype | None,
) -> Iterator[tuple[Stored, packed.Array | None]]:
    """Yield how every tensor is stored, and its content; None for one that is tied to another."""
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise UsageError(f"dtype is {dtype}, but must be torch.float16, torch.bfloat16 or None")
    state, ties = model_state.tensors_of(model, gates=gates)
    kept = stored_masks(masks, state, ties)
    found: dict[str, Stored] = {}
    for name, tensor in state.items():
        if name in ties:
            yield replace(found[ties[name]], name=name, tied=ties[name]), None
            continue
        small = dtype is not None and not model_state.is_gate(name, state)
        values = _converted(name, tensor, dtype) if small and dtype else tensor
        mask = kept.get(name)
        part = packed.pack(values, mask)
        found[name] = Stored(
            name=name,
            dtype=values.dtype,
            shape=tuple(tensor.shape),
            form=part.form,
            count=part.count,
            size=len(part.content),
            masked=mask is not None,
        )
        yield found[name], part.content


def _info(tensors: list[Stored]) -> ModelInfo:
    return ModelInfo(
        tensors=tuple(tensors),
        architecture=None,
        budget=None,
        provenance={},
        versions=versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _metadata(info: ModelInfo, sha: hashlib._Hash) -> dict[str, str]:
    return files.metadata_of(files.MODEL, Facts(info.to_json(), sha.hexdigest()))


def stored_masks(
    masks: Masks | None, state: Mapping[str, Tensor], ties: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the masks of a state, by the names under which their tensors are stored.

    Args:
        masks: if there are any.
        state: name → tensor, all of them.
        ties: name → the first name of the same tensor.

    Raises:
        UsageError: they are of another model, or were not applied; names the first such tensor.
    """
    kept: dict[str, Tensor] = {}
    for name, mask in (masks or {}).items():
        if name not in state:
            raise UsageError(
                f"there is a mask of {name!r}, which the model has not; "
                "these masks belong to another model"
            )
        if state[name].shape != mask.shape:
            raise UsageError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, but the parameter "
                f"{tuple(state[name].shape)}; these masks belong to another model"
            )
        own = ties.get(name, name)
        if own in kept and not torch.equal(kept[own], mask.to(kept[own].device)):
            raise UsageError(f"{name!r} and {own!r} are one tensor, but have different masks")
        cut = state[name].detach().masked_fill(mask.to(state[name].device), 0)
        if left := int(torch.count_nonzero(cut)):
            raise UsageError(
                f"{left} weights of {name!r} that its mask cuts are not zero; "
                "apply the masks before saving, with masks.apply(model)"
            )
        kept[own] = mask
    return kept


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in 16 bits; as it is if it has fewer than two dimensions, or fewer bits."""
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.dim() < 2:
        return tensor
    small = tensor.detach().to(dtype)
    if bool((small.isinf() & ~tensor.isinf()).any()):
        raise UsageError(
            f"{name!r} has values too large for {dtype}; give dtype=torch.bfloat16, or none"
        )
    return small
