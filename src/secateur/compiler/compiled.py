"""What compiling gives: the engine file, and what to tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur import files
from secateur.arguments import PATH, checked
from secateur.compiler import destination, emit
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target


@dataclass(frozen=True)
class Compiled:
    """A network, compiled.

    Attributes:
        content: of the engine file.
        source: what it was compiled from.
        target: what for.
        difference: from the reference, relative to the largest output; None for a target whose
            code this machine cannot run, which is not verified.
        sparse, dense: how many layers skip zeros, and how many do not, of those in float32.
        integer: how many layers are computed in 8 bits.
        words: how many of those skip words of four zeros.
        own: on how many inputs of the caller's own it was compared, too.
    """

    content: bytes
    source: emit.Source
    target: Target
    difference: float | None
    sparse: int
    dense: int
    integer: int = 0
    words: int = 0
    own: int = 0

    @checked(path=PATH)
    def write(self, path: Path | str, *, force: bool = False) -> None:
        """Write the engine file, whole or not at all.

        Args:
            path: of the file; an engine that is there already is replaced.
            force: replace a file that is no engine, too.

        Raises:
            UsageError: there is a file that is no engine, or a folder.
            FileError: it cannot be written; what was there before stays.
        """
        path = Path(path)
        destination.refuse_file(path, force=force)
        files.write(path, self.content)
        destination.warn_of_module(path)

    def summary(self, path: Path) -> str:
        """Return what to tell of the file that was written."""
        if self.difference is None:
            checked = f"not verified: this machine cannot run code for {self.target.name}"
        else:
            off = f"within {self.difference:.1e} of" if self.difference else "equal to"
            mine = f", on {self.own} inputs of yours, too" if self.own else ""
            checked = f"verified: {off} the reference{mine}"
        layers = f"layers that skip zeros: {self.sparse} of {self.sparse + self.dense}"
        if self.integer:
            floats = f"; of those in float32, {layers}" if self.sparse + self.dense else ""
            skip = f", {self.words} of them with zeros in fours" if self.words else ""
            layers = f"layers in int8: {self.integer}{skip}{floats}"
        return f"{path}: {len(self.content):,} bytes for {self.target.name}; {layers}; {checked}"

    def document(self, path: Path) -> dict[str, Any]:
        """Return what to tell of the file that was written, as JSON values."""
        layers = {"sparse": self.sparse, "dense": self.dense}
        return {
            "path": str(path),
            "target": self.target.name,
            "bytes": len(self.content),
            "layers": layers | {"integer": self.integer, "words": self.words},
            "difference": self.difference,
            "own": self.own,
        }

    def engine(self, threads: int | None = None) -> Engine:
        """Load it.

        Raises:
            CompileError: it is for another machine.
        """
        return Engine(self.content, threads)
