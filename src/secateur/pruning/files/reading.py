"""Reading model files, and refusing what cannot be believed before any of it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from secateur import files
from secateur.arguments import PATH, checked
from secateur.errors import FileError
from secateur.pruning.files import description, packed
from secateur.pruning.files.description import ModelInfo, Stored
from secateur.pruning.selecting.masks import FORMAT as MASKS
from secateur.pruning.selecting.masks import Masks

FORMAT = "secateur model 1"


@checked(path=PATH)
def read(path: str | Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read the values of a file that `save` wrote, with no need for a model.

    Returns:
        the state dict, on the CPU, in the original order; tied names share one tensor. And what
        else the file holds.

    Raises:
        FileError: the file is missing, truncated, damaged, or holds something else.
    """
    path = files.path_of(path)
    info = read_info(path)
    return values(path, info, packed.unpack), info


def read_info(path: str | Path) -> ModelInfo:
    """Read what a file that `save` wrote says of itself, but no values; the hash is not checked.

    Raises:
        FileError: as in `read`.
    """
    path = files.path_of(path)
    with _refusing(path):
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            sizes = {
                name: (part.get_dtype(), part.get_shape())
                for name in file.keys()  # noqa: SIM118
                for part in [file.get_slice(name)]
            }
        if metadata.get("format") != FORMAT:
            raise FileError(_other_format(path, metadata))
        info = description.parse(metadata["description"], metadata["sha256"])
        wanted = {tensor.name: ("U8", [tensor.size]) for tensor in _own(info)}
        for name in [*wanted, *sizes]:
            if wanted.get(name) != sizes.get(name):
                raise ValueError(f"{name[:80]!r} is not as the description says")
        return info


@checked(path=PATH)
def load_masks(path: str | Path) -> Masks:
    """Read the masks that `save` was given; the tensors are on the CPU.

    Raises:
        FileError: as in `read`, or the file was written without masks.
    """
    path = files.path_of(path)
    info = read_info(path)
    names = {tensor.name for tensor in info.tensors if tensor.masked}
    if not names:
        raise FileError(f"{path} holds no masks; write it with save(model, path, masks=masks)")
    return Masks(values(path, info, packed.kept_of, names))


def values(
    path: Path,
    info: ModelInfo,
    take: Callable[[packed.Packed, torch.dtype, tuple[int, ...]], Tensor],
    names: set[str] | None = None,
) -> dict[str, Tensor]:
    """Return what is taken of every tensor, or of some, after the hash was found to be right.

    Args:
        path: of the file.
        info: what `read_info` gave.
        take: (packed, dtype, shape) → what is wanted of a tensor.
        names: of which tensors; by default of all, tied ones too.

    Raises:
        FileError: as in `read`.
    """
    found: dict[str, Tensor] = {}
    with _refusing(path), safetensors.safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {})["description"]
        if description.parse(text, info.sha256) != info:
            raise ValueError("it changed while it was being read")
        sha = hashlib.sha256(text.encode())
        for tensor in _own(info):
            content = file.get_tensor(tensor.name)
            sha.update(content.data)
            if names is None or tensor.name in names:
                part = packed.Packed(tensor.form, tensor.count, content)
                found[tensor.name] = take(part, tensor.dtype, tensor.shape)
        if sha.hexdigest() != info.sha256:
            raise ValueError("its hash does not match")
    if names is None:
        found = {t.name: found[t.name if t.tied is None else t.tied] for t in info.tensors}
    return found


def _own(info: ModelInfo) -> list[Stored]:
    return [tensor for tensor in info.tensors if tensor.tied is None]


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever a bad file gives rise to into one error."""
    try:
        refuse_pickle(path)
        yield
    except FileError:
        raise
    except (OSError, safetensors.SafetensorError) as error:
        raise FileError(
            f"cannot read a model from {path}: {error}; give a file that secateur.save wrote"
        ) from error
    except MemoryError as error:
        raise FileError(f"{path} unpacks to more than there is memory for") from error
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} is damaged: {str(error)[:300] or type(error).__name__}; write it again with "
            "secateur.save"
        ) from error


def refuse_pickle(path: Path) -> None:
    """Refuse a file of PyTorch's own format, from whose first bytes it can be known.

    Raises:
        FileError: it is one; says how to convert it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    zipped, tarred = head.startswith(b"PK\x03\x04"), head[257:262] == b"ustar"
    pickled = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
    if head[8:9] != b"{" and (zipped or tarred or pickled):
        raise FileError(
            f"{path} is a pickle or an archive of one, which can run code when it is read, and is "
            "not read here. Convert it: state = torch.load(path, weights_only=True), then "
            "secateur.save(state, 'model.safetensors')"
        )


def _other_format(path: Path, metadata: Mapping[str, str]) -> str:
    given = metadata.get("format")
    if given == MASKS:
        hint = "it holds masks: use Masks.load"
    elif given in ("pt", None):
        hint = "if it holds plain tensors, use safetensors.torch.load_file"
    else:
        hint = "it was written by another program, or a later version of secateur"
    return f"{path} is no model file of secateur: its format is {given!r}, not {FORMAT!r}; {hint}"
