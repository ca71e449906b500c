"""What stands beside weights in a folder: a config of transformers to build from, and a card."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.errors import UsageError

GENERATION = "generation_config.json"
STORED = ("quantization_config", "compression_config", "sparsity_config")
"""Where a config.json says how weights are stored."""


def rebuilt(folder: Path, config: Mapping[str, Any]) -> nn.Module | None:
    """Return the model that a config.json of transformers describes, with values of no account.

    Only classes of transformers itself are built: no code of the folder is ever run.

    Args:
        folder: with the config.json.
        config: what is in it.

    Returns:
        the model in evaluation mode, in the dtype that the config names; None where the config is
        none of transformers', which names a `model_type` and an architecture.

    Raises:
        UsageError: transformers is not installed, or has no such class.
    """
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if not isinstance(name, str) or not isinstance(config.get("model_type"), str):
        return None
    otherwise = "build the model yourself and give it to from_pretrained(folder, model)"
    try:
        transformers = import_module("transformers")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{folder} holds a {name} of transformers, and the package {error.name} is missing: "
            f"pip install transformers, or {otherwise}"
        ) from error
    kind: Any = getattr(transformers, name, None)
    base = transformers.PreTrainedModel
    if not any(each is base for each in getattr(kind, "__mro__", ())):
        raise UsageError(f"transformers has no model {name!r}, of which {folder} is; {otherwise}")
    settings = kind.config_class.from_pretrained(folder)
    for section in STORED:  # says how weights were stored, and they no longer are
        if hasattr(settings, section):
            delattr(settings, section)
    before, dtype = torch.get_default_dtype(), getattr(settings, _dtype_of(settings), None)
    torch.set_default_dtype(dtype if isinstance(dtype, torch.dtype) else before)
    try:
        model = kind(settings)
    finally:
        torch.set_default_dtype(before)
    if (folder / GENERATION).is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    built: nn.Module = model.eval()
    return built


def note_dtype(config: Any, model: nn.Module) -> None:
    """Write a model's dtype into a config of transformers, as its own saving does."""
    if isinstance(dtype := getattr(model, "dtype", None), torch.dtype):
        setattr(config, _dtype_of(config), str(dtype).removeprefix("torch."))


def _dtype_of(config: Any) -> str:
    """Return what a config calls it; transformers before 4.56 called it torch_dtype."""
    return "dtype" if hasattr(config, "dtype") else "torch_dtype"


def card_of(model: nn.Module, table: str, *, packed: bool) -> str:
    """Return the text of a README.md for the Hub: how to load the model, and what the cut came to.

    Args:
        model: whose class is named.
        table: what was measured, as `print(result)` shows it.
        packed: whether the folder holds the packed form.
    """
    kind = type(model).__name__
    of_transformers = type(model).__module__.startswith("transformers.")
    library = "transformers" if of_transformers and not packed else "secateur"
    argument = "" if of_transformers else f", {kind}(...)"
    loading = f'import secateur\n\nmodel = secateur.from_pretrained("FOLDER"{argument})'
    if library == "transformers":
        loading = f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("FOLDER")'
    return (
        f"---\nlibrary_name: {library}\ntags:\n- secateur\n- pruned\n---\n\n"
        f"# {kind}, pruned\n\n```python\n{loading}\n```\n\n```\n{table}\n```\n"
    )
