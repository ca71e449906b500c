"""How fast a compiled network is, against other engines: measured in turn, on this machine."""

from __future__ import annotations

from secateur.bench.comparison import run
from secateur.bench.contest import Contest
from secateur.bench.preparation import prepared
from secateur.bench.report import view
from secateur.bench.result import Result

__all__ = ["Contest", "Result", "prepared", "run", "view"]
