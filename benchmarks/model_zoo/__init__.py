"""Models with small configurations and random weights, of the libraries that people use."""

from __future__ import annotations

from model_zoo.classic import CLASSIC
from model_zoo.entry import Entry, Inputs
from model_zoo.of_timm import TIMM
from model_zoo.others import OTHERS
from model_zoo.pictures import PICTURES
from model_zoo.texts import TEXTS

__all__ = ["MODELS", "Entry", "Inputs"]

MODELS: dict[str, Entry] = {
    f"{entry.family}: {name}": entry
    for part in (CLASSIC, PICTURES, OTHERS, TEXTS, TIMM)
    for name, entry in part.items()
}
