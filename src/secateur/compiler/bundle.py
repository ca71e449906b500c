"""Networks as C: the sources of one, and a folder of them that needs nothing but a C compiler.

What a model's file calls its layers, inputs and outputs stands in `bundle.json` alone: in no C, no
Makefile and no text.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from secateur.compiler.targets import Target
from secateur.errors import FileError, UsageError
from secateur.files import (
    TEMPORARY,
    Finding,
    compared,
    read_json,
    sha256_of,
    sweep,
    unread,
)
from secateur.version import VERSION

RUNTIME = (
    *("runtime.c", "pool.c", "guard.c", "required.c"),
    *("runtime.h", "system.h", "pool.h", "constants.h", "guard.h", "ranges.h", "instructions.h"),
)
"""The C files that every network needs, but those made from templates."""

MANIFEST = "bundle.json"
"""Says which files of a folder are ours, with their SHA-256, and what the network is."""

_OURS = re.compile(r"[A-Za-z]\w*\.h|main\.c|Makefile|README\.txt|src/\w+\.[ch]", re.ASCII)
_AS_IT_IS = "choose another name, or write beside what is there with force=True (--force)"
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
    check_prefix(prefix)
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
        "VERSION": VERSION,
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
) -> None:
    """Write a folder that `make` turns into a library and an example program.

    It is seen whole or not at all. A folder that is there already is replaced where it is a bundle
    as it was written, built or not, and holds no other files.

    Args:
        folder: to write.
        model, network, prefix: see `sources`.
        weights: the constants.
        target: whose compiler flags the Makefile proposes.

    Raises:
        UsageError: the folder holds other files, or the current folder is in it, or the prefix
            cannot be one.
        FileError: it cannot be written.
    """
    top = (f"{prefix}.h", "main.c")  # beside them no header may hide one of another program
    content: dict[str, bytes] = {
        name if name in top else f"src/{name}": text.encode("ascii")
        for name, text in sources(model, network, prefix).items()
    }
    fields = {
        "PREFIX": prefix,
        "VERSION": VERSION,
        "FLAGS": " ".join(target.gnu_flags),
        "TARGET": target.name,
        "MODEL": " ".join(sorted(f"src/{name}" for name in model if name.endswith(".c"))),
        "ARRAYS": "\n".join(f"    {line}" for line in _arrays(network)),
    }
    content["src/weights.c"] = weights_c(weights)
    for name in ("Makefile", "README.txt"):
        content[name] = _filled(f"{name}.in", fields).encode("ascii")
    manifest = {
        "secateur": VERSION,
        "prefix": prefix,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        "target": target.name,
        "network": network,
    }
    content[MANIFEST] = json.dumps(manifest, indent=1, default=list).encode() + b"\n"
    folder = Path(folder)
    refuse_others(folder)
    try:
        _replace(folder, content)
    except OSError as error:
        raise FileError(
            f"cannot write {folder}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error


def check(folder: Path) -> Iterator[Finding]:
    """Compare the files of a bundle with the SHA-256 that its bundle.json has; changes nothing."""
    again = "write the folder again, with `secateur compile`"
    try:
        written, _ = _described(folder, "")
    except OSError as error:
        yield unread(MANIFEST, error, again)
    except UsageError:
        why = f"it is not as secateur writes it, or is of 0.1.0, without hashes; {again}"
        yield Finding(MANIFEST, "damaged", why)
    else:
        yield Finding(MANIFEST, "not hashed", "it has the hashes of the others")
        yield from (compared(folder, name, digest, again) for name, digest in written.items())


def _read(name: str) -> str:
    return (_C / name).read_text(encoding="utf-8")


def _filled(name: str, fields: Mapping[str, str]) -> str:
    """Return a template with its fields filled in; what was filled in is not looked at again."""
    return re.sub(r"@([A-Z]+)@", lambda field: fields[field[1]], _read(name))


def check_prefix(prefix: str) -> None:
    """Refuse what public names in C, and files, cannot begin with.

    Raises:
        UsageError: says what is wrong with it.
    """
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
    """Refuse a folder that cannot be replaced without a loss.

    Raises:
        UsageError: it holds anything but a bundle as secateur wrote it and what `make` made of it,
            or the current folder is in it.
        FileError: it cannot be read.
    """
    try:
        if folder.resolve() in (here := Path.cwd(), *here.parents):
            raise UsageError(
                f"{folder} cannot be replaced while it is the current folder or holds it; "
                "name a new folder, or write into this one with force=True (--force)"
            )
        if folder.exists() or folder.is_symlink():
            _refuse_loss(folder)
    except OSError as error:
        raise FileError(
            f"cannot use {folder}: {error.strerror or error}; choose another folder"
        ) from error


def _refuse_loss(folder: Path) -> None:
    what = f"{folder} is there already and "
    if not folder.is_dir() or folder.is_symlink():
        raise UsageError(f"{what}is not a folder; choose another name")
    written, made = _described(folder, what)
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if name == "src" and path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or name not in {MANIFEST, *written, *made}:
            raise UsageError(f"{what}holds {name}, which is not part of a bundle; {_AS_IT_IS}")
        if name in written and sha256_of(path) != written[name]:
            raise UsageError(f"{what}its {name} was changed since secateur wrote it; {_AS_IT_IS}")


def _described(folder: Path, what: str) -> tuple[dict[str, str], set[str]]:
    """Return the files of a bundle with their SHA-256, and what its Makefile makes of them."""
    path = folder / MANIFEST
    if not (path.exists() or path.is_symlink()):
        return {}, set()
    try:
        manifest = read_json(path)
        _, _, found = manifest["network"], manifest["target"], manifest["files"]
        old = isinstance(found, list)
        if not old:
            prefix = manifest["prefix"]
            check_prefix(prefix)
            ours = (
                isinstance(manifest["secateur"], str)
                and all(_OURS.fullmatch(name) for name in found)
                and all(isinstance(digest, str) for digest in found.values())
            )
    except (ValueError, KeyError, TypeError, AttributeError):  # a UsageError is a ValueError
        old = ours = False
    if old:
        raise UsageError(
            f"{what}looks like one of secateur 0.1.0, which did not say what its files held; "
            "choose another name, or write over its files with force=True (--force)"
        )
    if not ours:
        raise UsageError(f"{what}holds {MANIFEST}, which is not part of a bundle; {_AS_IT_IS}")
    objects = {f"{name[:-2]}.o" for name in found if name.endswith(".c")}
    return found, objects | {f"lib{prefix}.a", f"lib{prefix}.so", "main"}


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder and in its `src`, in order; raises where it cannot be read."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.name == "src" and path.is_dir() and not path.is_symlink():
            yield from sorted(path.iterdir())


def _replace(folder: Path, content: Mapping[str, bytes]) -> None:
    if folder.name in ("", ".."):  # there is nothing to call what is beside it
        folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=TEMPORARY)
    new, old = Path(beside) / "new", Path(beside) / "old"
    try:
        (new / "src").mkdir(parents=True)
        for name, data in content.items():
            (new / name).write_bytes(data)
        if os.path.lexists(folder):
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(folder):
            old.rename(folder)  # should that fail, it stays where it is
        shutil.rmtree(beside, ignore_errors=True)
        raise
    shutil.rmtree(beside, ignore_errors=True)
    sweep(folder.parent, folder.name, folders=True)
