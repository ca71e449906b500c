"""Safetensors files: one reader and one writer, of numpy's arrays or of torch's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import safetensors

from secateur.errors import FileError
from secateur.files.documents import Kind, parse_json, to_json, validated
from secateur.files.reading import beginning, refusing

MODEL = "secateur model 1"
MASKS = "secateur masks 1"
STAGE = "secateur stage 1"

_REMEDIES = {
    MODEL: "give a file that secateur.save wrote",
    MASKS: "give a file that Masks.save wrote",
    STAGE: "resume from another checkpoint",
    None: "copy the file again, whole",
}
_HINTS = {
    MODEL: "it holds a model: use secateur.load",
    MASKS: "it holds masks: use Masks.load",
    STAGE: "it holds the stage of a training: give it to the callback that wrote it",
    "pt": "it holds plain tensors: use safetensors.torch.load_file",
    None: "it may hold plain tensors: use safetensors.torch.load_file",
}


class Tensors:
    """An open file: name → tensor, on the CPU; each is read when it is asked for."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.metadata: dict[str, str] = file.metadata() or {}

    def __getitem__(self, name: str) -> Any:
        return self._file.get_tensor(name)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield names and tensors, one at a time."""
        for name in self._file.keys():  # noqa: SIM118  (it is no mapping)
            yield name, self[name]

    def kinds(self) -> dict[str, tuple[str, list[int]]]:
        """Return name → (dtype as the format spells it, such as "F32"; shape); reads no tensor."""
        parts = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        return {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}

    def facts(self, kind: type[Kind]) -> Kind:
        """Return the metadata as a struct; its fields that are no text are JSON.

        Raises:
            ValueError: as of `validated` and `parse_json`.
        """
        given = {
            f.name: self.metadata[f.name] if f.type is str else parse_json(self.metadata[f.name])
            for f in msgspec.structs.fields(kind)  # type: ignore[arg-type]
            if f.name in self.metadata
        }
        return validated(given, kind)


@contextmanager
def open_tensors(
    path: Path,
    format_name: str | None = None,
    *,
    remedy: str | None = None,
    framework: str = "numpy",
) -> Iterator[Tensors]:
    """Open a safetensors file; what goes wrong inside the `with` statement is one clear error.

    Args:
        path: of the file.
        format_name: what its metadata must have as `format`: `MODEL`, `MASKS` or `STAGE`; by
            default anything.
        remedy: see `refusing`; by default that of the format.
        framework: whose tensors to give, numpy or torch; only then is torch imported.

    Raises:
        FileError: the file is missing, truncated, a pickle or of another format; or the statement
            raises what `refusing` knows.
    """
    with refusing(path, remedy or _REMEDIES[format_name]):
        refuse_pickle(path)
        with safetensors.safe_open(path, framework=framework) as file:
            tensors = Tensors(file)
            found = tensors.metadata.get("format")
            if format_name not in (None, found):
                hint = _HINTS.get(found, "another program wrote it, or a later secateur: upgrade")
                raise FileError(
                    f"cannot read {path}: its format is {found!r:.80}, not {format_name!r}; {hint}"
                )
            yield tensors


def format_of(path: Path) -> str | None:
    """Return what a safetensors file says that it holds; None where it says nothing, or is none.

    Raises:
        OSError: it cannot be read.
    """
    with (
        suppress(safetensors.SafetensorError),
        safetensors.safe_open(path, framework="numpy") as file,
    ):
        return Tensors(file).metadata.get("format")
    return None


def metadata_of(format_name: str, facts: msgspec.Struct) -> dict[str, str]:
    """Return the metadata that `Tensors.facts` reads: the format, and a text for every field."""
    fields = msgspec.structs.asdict(facts).items()
    texts = {name: value if isinstance(value, str) else to_json(value) for name, value in fields}
    return {"format": format_name, **texts}


def content_of(
    tensors: Mapping[str, Any], metadata: Mapping[str, str], framework: str = "numpy"
) -> bytes:
    """Return the content of a safetensors file; write it with `write`.

    Args:
        tensors: contiguous, and with memory of their own.
        metadata: its strings.
        framework: whose tensors they are, numpy or torch.
    """
    content: bytes = import_module(f"safetensors.{framework}").save(dict(tensors), dict(metadata))
    return content


def refuse_pickle(path: Path) -> None:
    """Refuse a file of PyTorch's own format, which its first bytes give away.

    Raises:
        FileError: it is one; says how to convert it.
        OSError, ValueError: as of `beginning`.
    """
    head = beginning(path, 512)
    zipped, tarred = head.startswith(b"PK\x03\x04"), head[257:262] == b"ustar"
    pickled = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
    if head[8:9] != b"{" and (zipped or tarred or pickled):
        raise FileError(
            f"cannot read {path}: it is a pickle or an archive of one, which can run code when it "
            "is read; convert it: state = torch.load(path, weights_only=True), then "
            "secateur.save(state, 'model.safetensors')"
        )
