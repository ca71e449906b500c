"""Networks as C: the sources of one, and a folder of them that needs nothing but a C compiler.

What a model's file calls its layers, inputs and outputs stands in `bundle.json` alone: in no C, no
Makefile and no text.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from secateur import __version__
from secateur.compiler.targets import Target
from secateur.errors import FileError, UsageError
from secateur.files import TEMPORARY, read_json, sweep

RUNTIME = (
    *("runtime.c", "pool.c", "guard.c", "required.c"),
    *("runtime.h", "system.h", "pool.h", "guard.h", "instructions.h"),
)
"""The C files that every network needs, but those made from templates."""

MANIFEST = "bundle.json"
"""Says which files of a folder are ours, and what the network is."""

_MADE = (".o", ".a", ".so")
_C = files("secateur.compiler") / "c"


def sources(
    model: Mapping[str, str], network: Mapping[str, Any], prefix: str = "secateur"
) -> dict[str, str]:
    """Return all C files of a network but its weights: {file name: text}.

    Args:
        model: generated files by name, such as {"model.c": ...}; the headers of secateur that they
            include are added.
        network: what `Source` says of it: name, inputs, outputs, batched.
        prefix: what public names begin with.

    Raises:
        UsageError: names in C cannot begin with the prefix.
    """
    _check_prefix(prefix)
    found = dict(model)
    waiting = [*found.values()]
    found |= {name: _read(name) for name in RUNTIME}
    found["names.h"] = ""  # filled below
    while waiting:
        for name in re.findall(r'^#include "([^"]+)"', waiting.pop(), re.MULTILINE):
            if name not in found:
                found[name] = _read(name)
                waiting.append(found[name])
    fields = {
        "PREFIX": prefix,
        "GUARD": f"{prefix}_SECATEUR_H",
        "VERSION": __version__,
        "ARRAYS": "\n".join(f" *   {line}" for line in _arrays(network)),
    }
    found["names.h"] = _filled("names.h.in", fields)
    found[f"{prefix}.h"] = _filled("secateur.h.in", fields)
    found["main.c"] = _filled("main.c.in", fields)
    return found


def weights_c(weights: bytes) -> bytes:
    """Return weights.c: the constants as an array, exact to the bit."""
    padded = np.frombuffer(weights + bytes(-len(weights) % 32), "<u8")
    digits = np.frombuffer(padded.astype(">u8").tobytes().hex().encode(), np.uint8)
    text = np.empty((len(padded) // 4, 4, 19), np.uint8)
    text[..., :2] = np.frombuffer(b"0x", np.uint8)
    text[..., 2:18] = digits.reshape(-1, 4, 16)
    text[..., 18] = ord(",")
    text[:, 3, 18] = ord("\n")
    body = text.tobytes().replace(b"\n", b",\n")
    return (
        b'#include <stdint.h>\n#include "names.h"\n\n'
        b"/* The constants, on a little-endian machine; model.c declares them as bytes. */\n"
        b"const uint64_t sec_stored[] __attribute__((aligned(64))) = {\n" + body + b"};\n"
    )


def write_bundle(
    folder: Path,
    model: Mapping[str, str],
    weights: bytes,
    network: Mapping[str, Any],
    target: Target,
    *,
    prefix: str = "secateur",
    force: bool = False,
) -> None:
    """Write a folder that `make` turns into a library and an example program.

    It is seen whole or not at all. A folder that is there already is replaced where it is a bundle
    and holds no other files.

    Args:
        folder: to write.
        model, network, prefix: see `sources`.
        weights: the constants.
        target: whose compiler flags the Makefile proposes.
        force: replace a folder even if it holds other files.

    Raises:
        UsageError: the folder holds other files, or the prefix cannot be one.
        FileError: it cannot be written.
    """
    top = (f"{prefix}.h", "main.c")  # beside them no header may hide one of another program
    content: dict[str, bytes] = {
        name if name in top else f"src/{name}": text.encode("ascii")
        for name, text in sources(model, network, prefix).items()
    }
    fields = {
        "PREFIX": prefix,
        "VERSION": __version__,
        "FLAGS": " ".join(target.gnu_flags),
        "TARGET": target.name,
        "MODEL": " ".join(sorted(f"src/{name}" for name in model if name.endswith(".c"))),
        "ARRAYS": "\n".join(f"    {line}" for line in _arrays(network)),
    }
    content["src/weights.c"] = weights_c(weights)
    for name in ("Makefile", "README.txt"):
        content[name] = _filled(f"{name}.in", fields).encode("ascii")
    manifest = {"files": sorted([*content, MANIFEST]), "target": target.name, "network": network}
    content[MANIFEST] = json.dumps(manifest, indent=1, default=list).encode() + b"\n"
    folder = Path(folder)
    if not force:
        refuse_others(folder)
    try:
        _replace(folder, content)
    except OSError as error:
        raise FileError(
            f"cannot write {folder}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error


def _read(name: str) -> str:
    return (_C / name).read_text(encoding="utf-8")


def _filled(name: str, fields: Mapping[str, str]) -> str:
    """Return a template with its fields filled in; what was filled in is not looked at again."""
    return re.sub(r"@([A-Z]+)@", lambda field: fields[field[1]], _read(name))


def _check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", prefix) or f"{prefix}_".startswith("sec_"):
        raise UsageError(
            f"prefix {prefix!r} cannot begin a name in C; use letters, digits and _, a letter "
            "first, and not sec_, with which secateur's own names begin"
        )
    own = {path.name.removesuffix(".in") for path in _C.iterdir()} - {"secateur.h"}
    if f"{prefix.lower()}.h" in own:
        raise UsageError(
            f"prefix {prefix!r} is taken: {prefix.lower()}.h is a header of secateur's own; "
            "choose another"
        )


def _arrays(network: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind in ("inputs", "outputs"):
        for i, array in enumerate(network.get(kind, ())):
            axes = ["batch"] if network.get("batched") else []
            shape = " x ".join([*axes, *(str(int(n)) for n in array["shape"])]) or "one number"
            lines.append(f"{kind}[{i}]  {np.dtype(array['dtype'])}, {shape}")
    return lines


def refuse_others(folder: Path) -> None:
    """Raise UsageError where a path holds anything but a bundle that secateur wrote."""
    if not (folder.exists() or folder.is_symlink()):
        return
    what = f"{folder} is there already and "
    if not folder.is_dir() or folder.is_symlink():
        raise UsageError(f"{what}is not a folder; choose another name")
    try:
        ours = set(read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            fine = name == "src"
        else:  # the rest is what `make` makes
            fine = name in ours or (bool(ours) and (name == "main" or path.suffix in _MADE))
        if not fine:
            raise UsageError(
                f"{what}holds {name}, which is not part of a bundle; "
                "choose another name, or force it to be replaced"
            )


def _replace(folder: Path, content: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=TEMPORARY))
    try:
        (new / "src").mkdir()
        for name, data in content.items():
            (new / name).write_bytes(data)
        new.chmod(0o755)
        if folder.exists():
            old = Path(
                tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=TEMPORARY)
            )
            folder.rename(old / folder.name)
            try:
                new.rename(folder)
            except OSError:
                (old / folder.name).rename(folder)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sweep(folder.parent, folder.name, folders=True)
