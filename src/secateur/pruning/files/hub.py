"""Folders in the manner of the Hugging Face Hub: weights, and a config.json beside them.

A folder holds `model.safetensors`, which any library reads, or `model.secateur.safetensors`
without its zeros. The section "secateur" of config.json says how the model was cut, and the
SHA-256 of the files.
"""

from __future__ import annotations

import copy
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from secateur import files
from secateur.arguments import BOOL, PATH, TEXT, a, checked
from secateur.errors import FileError, UsageError
from secateur.machine import versions
from secateur.model.parameters import unwrapped
from secateur.pruning.files import cards, description, foreign, model_file, model_state
from secateur.pruning.files.description import Architecture, Stored
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks

ENDING = ".safetensors"
CONFIG = "config.json"
DENSE = "model.safetensors"
SHARDS = "model.safetensors.index.json"
"""Where a model of several files says which of them holds what."""
PACKED = "model.secateur.safetensors"
CARD = "README.md"
SECTION = "secateur"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
"""How the names of files end that hold weights, or say which file does."""
_AGAIN = "copy the folder again"
_MENDED = f"write the folder again, or delete the section {SECTION!r} of that file"


class _Section(description.Origin):
    """What config.json says of our own."""

    files: dict[str, str]
    """Name → SHA-256 of each file of weights."""
    achieved: float | None
    """The keep ratio of the masks."""


class _Index(msgspec.Struct):
    """Where a model of several files says which of them holds what."""

    weight_map: Annotated[dict[str, str], msgspec.Meta(min_length=1)]


@checked(
    model=a(nn.Module, "a torch module"),
    folder=PATH,
    packed=BOOL,
    masks=model_file.MASKS,
    gates=BOOL,
    budget=model_file.BUDGET,
)
def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    packed: bool = False,
    masks: Masks | None = None,
    gates: bool = False,
    dtype: torch.dtype | None = None,
    budget: Budget | None = None,
    architecture: Architecture | None = None,
    provenance: Mapping[str, Any] | None = None,
    card: object = None,
) -> None:
    """Write a model and its config.json into a folder.

    The dense form is written by the model's own `save_pretrained`, if it has one, as those of
    transformers do; beside the packed form stands what else that writes, its config above all, so
    that the model can be built again. A README.md that is there stays. Each file is written whole
    or not at all, config.json last. What an earlier config.json says beside that stays in it;
    weights that an earlier save left and this one did not write are then deleted.

    Args:
        model: looked at through its wrappers. Not changed.
        folder: made if it is missing.
        config: more entries of config.json; JSON must have words for them.
        packed: write `model.secateur.safetensors`, without zeros, in place of the dense form.
        masks: as in `save`; the keep ratio that they reach is written down.
        gates: as in `save`.
        dtype: as in `save`; only where it is packed.
        budget: as in `save`.
        architecture: as in `save`.
        provenance: as in `save`.
        card: what `prune` returned as its result, or any text with what was measured: the table
            of a README.md that also says how to load the model.

    Raises:
        UsageError: as in `save`, or the dense form cannot hold a tensor.
        FileError: the folder cannot be written, or its config.json is no JSON object.
    """
    folder, inner = Path(folder), unwrapped(model)
    more = description.json_object("config", config)
    built_by = description.architecture_of(architecture)
    remembered = description.json_object("provenance", provenance)
    if dtype is not None and not packed:
        raise UsageError("dtype is for packed=True; for the dense form give model.to(dtype)")
    state, ties = model_state.tensors_of(inner, gates=gates)
    model_file.stored_masks(masks, state, ties)
    there = _config(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder, "saving", folders=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=".saving.", suffix=files.TEMPORARY
        ) as aside:
            place = Path(aside)
            if packed:
                model_file.save(
                    inner,
                    place / PACKED,
                    masks=masks,
                    gates=gates,
                    dtype=dtype,
                    budget=budget,
                    architecture=architecture,
                    provenance=provenance,
                )
                _settings_its_way(inner, place)
            else:
                _save_dense(inner, place, state, ties)
            if card is not None:
                text = cards.card_of(inner, str(card), packed=packed)
                files.write(place / CARD, text)
            own = _config(place)
            written = sorted(path for path in place.iterdir() if path.name != CONFIG)
            section = _Section(
                files={p.name: files.sha256_of(p) for p in written if p.suffix == ENDING},
                achieved=None if masks is None else masks.keep,
                **description.origin(built_by, budget, remembered, versions()),
            )
            for path in written:
                if path.name != CARD or not (folder / CARD).exists():
                    path.replace(folder / path.name)
    except OSError as error:
        raise FileError(
            f"cannot write into {folder}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error
    whole = {**there, **own, **more, SECTION: msgspec.to_builtins(section)}
    files.write(folder / CONFIG, json.dumps(whole, indent=2) + "\n")
    for name in _earlier(there) - {path.name for path in written}:
        (folder / name).unlink(missing_ok=True)  # or a loader would find two models


def _earlier(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the files of weights that an earlier save left, by its config.json."""
    section = config.get(SECTION)
    names = section.get("files") if isinstance(section, dict) else None
    listed = names if isinstance(names, dict) else {}
    plain = {name for name in listed if Path(name).name == name and name.endswith(ENDING)}
    return plain | {SHARDS} if plain else set()


@checked(folder=PATH, trust=BOOL)
def from_pretrained(
    folder: str | Path,
    model: nn.Module | None = None,
    *,
    factory: Callable[..., nn.Module] | None = None,
    trust: bool = False,
) -> nn.Module:
    """Read a model from a folder that `save_pretrained`, or a library of the Hub, wrote.

    Weights that SparseML, llm-compressor or compressed-tensors stored without their zeros
    (sparse-bitmask, sparse-24-bitmask) are read too, without these packages.

    Args:
        folder: on this machine; of the Hub, what `huggingface_hub.snapshot_download` gives.
        model: as in `load`. It may be left out for models of transformers, which are built from
            their config.json, in evaluation mode, and without any code of the folder.
        factory: as in `load`.
        trust: as in `load`.

    Returns:
        as `load`.

    Raises:
        FileError: as `load`; or a file is not that of config.json's hash, or a name in JSON leads
            out of the folder; or the weights are quantised.
        UsageError: as `load`; or transformers is not installed, or does not know the model.
    """
    folder = Path(folder)
    section = _section(folder)
    hashes = section.files if section else {}
    with files.refusing(folder / CONFIG, _MENDED):
        built_by = description.architecture_of(section.architecture if section else None)
    paths = [_inside(folder, name) for name in hashes or _names(folder)]
    for path, wanted in zip(paths, hashes.values(), strict=False):
        with files.refusing(
            path, f"{_AGAIN} or, if you know why, delete the section {SECTION!r} of {CONFIG}"
        ):
            if files.sha256_of(path) != wanted:
                raise ValueError(
                    f"it is not the file that {CONFIG} was written for: it is damaged, or another "
                    "program wrote it anew"
                )
    with files.refusing(folder, "give the folder from before it was quantised"):
        foreign.refuse_quantised(_config(folder))
    if model is None and factory is None and built_by is None:
        model = cards.rebuilt(folder, _config(folder))
    if [path.name for path in paths] == [PACKED]:
        return model_file.load(paths[0], model, factory=factory, trust=trust)
    state, ties = foreign.read(paths, _AGAIN)
    if model is None:
        model = model_file.build(folder, built_by, factory, trust)
    _add_tied(model, state, ties)
    stored = [_as_stored(name, tensor) for name, tensor in state.items()]
    if problem := model_state.misfit(model, stored) or model_state.clash(model, state):
        raise FileError(f"{folder} is of another model than {type(model).__name__}: {problem}")
    model_state.fill(model, state, ties)
    return model


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of weights in a folder, as its config.json has them.

    Raises:
        FileError: config.json cannot be read, or names a file outside of the folder.
    """
    section = _section(folder)
    hashes = section.files if section else {}
    for name in hashes:
        _inside(folder, name)
    return hashes


@checked(folder=PATH, repo_id=TEXT)
def push_to_hub(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Upload a folder that `save_pretrained` wrote; a thin call of huggingface_hub.

    Args:
        folder: with a config.json.
        repo_id: "owner/name"; made if it is missing.
        options: `private` for a new repository, `token`, `repo_type`, and whatever else
            `HfApi.upload_folder` takes.

    Returns:
        the address of what was uploaded.

    Raises:
        UsageError: huggingface_hub is not installed.
        FileError: there is no config.json in the folder.
    """
    if not (Path(folder) / CONFIG).is_file():
        raise FileError(f"{folder} has no {CONFIG}; write the folder with save_pretrained first")
    try:
        api = import_module("huggingface_hub").HfApi()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"uploading needs the package {error.name}: pip install huggingface_hub"
        ) from error
    making = {key: options[key] for key in ("private", "token", "repo_type") if key in options}
    options.pop("private", None)
    api.create_repo(repo_id, exist_ok=True, **making)
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), **options))


# Writing.


def _save_dense(
    model: nn.Module, place: Path, state: Mapping[str, Tensor], ties: Mapping[str, str]
) -> None:
    """Write plain weights; a model that can saves itself, without the gates that are not wanted."""
    save: Any = getattr(model, "save_pretrained", None)
    if not callable(save):
        files.write(place / DENSE, _dense(state, ties))
        return
    if len(state) == len(model.state_dict()):
        save(place)
    elif "state_dict" in inspect.signature(save).parameters:
        save(place, state_dict=dict(state))
    else:
        raise UsageError(
            f"{type(model).__name__} saves itself, and its gates too; take them away with "
            "Gates.of(model).remove(), or give gates=True"
        )
    if not any(path.suffix == ENDING for path in place.iterdir()):
        raise UsageError(
            f"{type(model).__name__}.save_pretrained wrote no safetensors; give packed=True"
        )


def _settings_its_way(model: nn.Module, place: Path) -> None:
    """Let a model that saves itself write all but its weights: its config, and how it generates."""
    save: Any = getattr(model, "save_pretrained", None)
    if not callable(save):
        return
    config = getattr(model, "config", None)
    with tempfile.TemporaryDirectory(dir=place, prefix=".settings.") as aside:
        if callable(getattr(config, "save_pretrained", None)):  # as transformers', without weights
            own: Any = copy.deepcopy(config)
            own.architectures = [type(model).__name__]
            cards.note_dtype(own, model)
            own.save_pretrained(aside)
            generation: Any = getattr(model, "generation_config", None)
            if generation is not None:
                generation.save_pretrained(aside)
        else:
            with suppress(TypeError):  # one that wants more than a folder is not the Hub's
                save(aside)
        for path in Path(aside).iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                path.replace(place / path.name)


def _dense(state: Mapping[str, Tensor], ties: Mapping[str, str]) -> bytes:
    """Return a plain safetensors file; tied tensors are once in it, as other libraries do it."""
    for name, tensor in state.items():
        if tensor.dtype not in safetensors.torch._TYPES.values():
            raise UsageError(f"safetensors cannot hold {name!r}, {tensor.dtype}; give packed=True")
    own = {name: _alone(tensor) for name, tensor in state.items() if name not in ties}
    return files.content_of(own, {**ties, "format": "pt"}, "torch")


def _alone(tensor: Tensor) -> Tensor:
    """Return a tensor in row-major order that shares its memory with nothing else in the file."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    shares = tensor.untyped_storage().nbytes() != tensor.nbytes
    return tensor.clone() if shares else tensor


# Reading.


def _names(folder: Path) -> Sequence[str]:
    """Return which files hold the weights of a folder whose config.json does not say so."""
    if (folder / DENSE).is_file():
        return [DENSE]
    if (folder / SHARDS).is_file():
        with files.refusing(folder / SHARDS, _AGAIN):
            index = files.validated(files.read_json(_inside(folder, SHARDS)), _Index)
        return sorted(set(index.weight_map.values()))
    if (folder / PACKED).is_file():
        return [PACKED]
    for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*")):
        files.refuse_pickle(path)
    raise FileError(
        f"there is no {DENSE} or {PACKED} in {folder}; give a folder that save_pretrained wrote"
    )


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder, which it must not leave."""
    path, windows, posix = folder / name, PureWindowsPath(name), PurePosixPath(name)
    leaves = ".." in {*posix.parts, *windows.parts} or windows.anchor or posix.is_absolute()
    try:
        root, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, or no name at all
        leaves, root, real = True, folder, path
    # what the Hub's own cache puts into a folder is links to the files beside it
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if leaves or not any(real.is_relative_to(allowed) for allowed in roots):
        raise FileError(
            f"{name!r} leads out of {folder}, so that it is not read; copy the file into the folder"
        )
    return path


def _section(folder: Path) -> _Section | None:
    with files.refusing(folder / CONFIG, _MENDED):
        given = _config(folder).get(SECTION)
        return files.validated(given, _Section) if given else None


def _config(folder: Path) -> dict[str, Any]:
    with files.refusing(folder / CONFIG, "mend it or delete it"):
        return files.read_json(_inside(folder, CONFIG)) if (folder / CONFIG).exists() else {}


def _add_tied(model: nn.Module, state: dict[str, Tensor], ties: Mapping[str, str]) -> None:
    """Give the state the names that were left out because they are tied to others."""
    for name, first in ties.items():
        state[name] = state[first]
    _, own = model_state.tensors_of(model)
    groups: dict[str, list[str]] = {}
    for name, first in own.items():
        groups.setdefault(first, [first]).append(name)
    for group in groups.values():
        known = next((state[name] for name in group if name in state), None)
        if known is not None:
            state.update({name: known for name in group if name not in state})


def _as_stored(name: str, tensor: Tensor) -> Stored:
    return Stored(
        name, tensor.dtype, tuple(tensor.shape), "dense", tensor.numel(), tensor.nbytes, False
    )
