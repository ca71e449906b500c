"""Train once, prune to any ratio, with proof, and ship it.

The public names are imported when they are first used, so that importing secateur is cheap and
what needs no torch never loads it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.compiler.pipeline import compile, compile_network
    from secateur.compiler.runtime import Engine
    from secateur.distillation import SoftTargets, distilled
    from secateur.errors import SecateurError
    from secateur.pruning.budget import Budget
    from secateur.pruning.calibration import Calibration
    from secateur.pruning.gate_phase import GatePhase, learn_gates
    from secateur.pruning.gates import Gates
    from secateur.pruning.masks import Masks
    from secateur.pruning.parameters import prunable
    from secateur.pruning.recovery.batchnorm import recalibrate
    from secateur.pruning.recovery.finetune import finetune
    from secateur.pruning.recovery.reconstruct import prune_gradually, reconstruct
    from secateur.pruning.selection import select
    from secateur.study.study import Study
    from secateur.study.task import Metric, Task, classification
    from secateur.training import Recipe, train

__version__ = "0.1.0"

_HOMES = {
    "Budget": "secateur.pruning.budget",
    "Calibration": "secateur.pruning.calibration",
    "Engine": "secateur.compiler.runtime",
    "GatePhase": "secateur.pruning.gate_phase",
    "Gates": "secateur.pruning.gates",
    "Masks": "secateur.pruning.masks",
    "Metric": "secateur.study.task",
    "Recipe": "secateur.training",
    "SecateurError": "secateur.errors",
    "SoftTargets": "secateur.distillation",
    "Study": "secateur.study.study",
    "Task": "secateur.study.task",
    "classification": "secateur.study.task",
    "compile": "secateur.compiler.pipeline",
    "compile_network": "secateur.compiler.pipeline",
    "distilled": "secateur.distillation",
    "finetune": "secateur.pruning.recovery.finetune",
    "learn_gates": "secateur.pruning.gate_phase",
    "prunable": "secateur.pruning.parameters",
    "prune_gradually": "secateur.pruning.recovery.reconstruct",
    "recalibrate": "secateur.pruning.recovery.batchnorm",
    "reconstruct": "secateur.pruning.recovery.reconstruct",
    "select": "secateur.pruning.selection",
    "train": "secateur.training",
}

__all__ = [
    "Budget",
    "Calibration",
    "Engine",
    "GatePhase",
    "Gates",
    "Masks",
    "Metric",
    "Recipe",
    "SecateurError",
    "SoftTargets",
    "Study",
    "Task",
    "classification",
    "compile",
    "compile_network",
    "distilled",
    "finetune",
    "learn_gates",
    "prunable",
    "prune_gradually",
    "recalibrate",
    "reconstruct",
    "select",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
