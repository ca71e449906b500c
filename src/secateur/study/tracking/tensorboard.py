"""TensorBoard: files in the folder `tensorboard` of the study's directory."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from secateur.study.tracking import Figure, Followed

NEEDS = "tensorboard"
FOLDER = "tensorboard"
_LARGEST = 1 << 20  # bytes of a text that is shown


class Run:
    """See `Tracker`."""

    def __init__(self, folder: Path, run: str) -> None:
        self.run = run
        self._writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def parameters(self, values: Mapping[str, str]) -> None:
        """As `Tracker.parameters`: a table."""
        rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in values.items())
        self._writer.add_text("parameters", f"| option | value |\n|---|---|\n{rows}", 0)
        self._writer.flush()

    def figures(self, figures: Iterable[Figure]) -> None:
        """As `Tracker.figures`."""
        for name, value, at in figures:
            self._writer.add_scalar(name, value, at)
        self._writer.flush()

    def artifact(self, path: Path) -> None:
        """As `Tracker.artifact`: a PNG as an image, texts as they are, else where the file is."""
        if path.suffix == ".png":
            image: Any = import_module("PIL.Image")
            pixels = import_module("numpy").asarray(image.open(path).convert("RGB"))
            self._writer.add_image(path.name, pixels, 0, dataformats="HWC")
        elif path.suffix in (".csv", ".tex") and path.stat().st_size <= _LARGEST:
            text = path.read_text("utf-8", errors="replace").replace("\n", "\n    ")
            self._writer.add_text(path.name, f"    {text}", 0)
        else:
            self._writer.add_text(path.name, f"`{path.resolve()}`", 0)
        self._writer.flush()

    def close(self, *, done: bool) -> None:
        """As `Tracker.close`."""
        self._writer.close()


def connect(study: Followed, run: str | None) -> Run:
    """Return the run that a study had, or a new one, where its files are gone."""
    folder = study.directory / FOLDER
    if run is None or not any(folder.glob("*.tfevents.*")):
        run = uuid.uuid4().hex
    return Run(folder, run)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
