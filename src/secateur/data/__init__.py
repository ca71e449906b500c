"""The data sets that secateur trains on, all of them images in memory.

A module of this package that has a function `load` is a data set, named as the module is; a new one
is a new file.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Protocol

import torch

from secateur.data.augmentation import Augmentation
from secateur.data.cifar10_sources import cache_directory
from secateur.data.images import ImageData, Split
from secateur.errors import UsageError

__all__ = ["DATASETS", "Augmentation", "ImageData", "Loader", "Split", "cache_directory", "load"]


class Loader(Protocol):
    """What a data set's file offers: its images on the CPU."""

    def __call__(self, data_dir: Path | None = None, progress: bool = True) -> ImageData:
        """Load from `data_dir`, or from wherever the data set is had; `progress` reports on it."""


_MODULES = {name: import_module(f"{__name__}.{name}") for _, name, _ in iter_modules(__path__)}

DATASETS: MappingProxyType[str, Loader] = MappingProxyType(
    {name: module.load for name, module in _MODULES.items() if hasattr(module, "load")}
)
"""Every data set's loader, by its name."""


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> ImageData:
    """Return the data set `name`, its images on `device`.

    `data_dir` is where its files already stand; without it they are taken from the user's cache
    or fetched, and `progress` reports on that on standard error. Raises UsageError for an
    unknown name, DataError when the data cannot be had or is not what it should be.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set {name!r}; there are {', '.join(sorted(DATASETS))}")
    return DATASETS[name](data_dir, progress).to(device)
