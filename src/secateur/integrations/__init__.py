"""Callbacks for other trainers; each needs its package, and nothing here imports one by itself."""

from __future__ import annotations

from secateur.errors import UsageError


class MissingPackageError(UsageError, ImportError):
    """A package that an integration is for is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"secateur.integrations.{extra} needs the package {package}, which is not installed: "
            f"pip install '.[{extra}]' in a clone of secateur"
        )
