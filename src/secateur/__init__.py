"""Train once, prune to any ratio, with proof, and ship it.

The public names are imported when they are first used, so that importing secateur is cheap and
what needs no torch never loads it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.compiler.call import compile
    from secateur.compiler.pipeline import compile_network
    from secateur.compiler.runtime import Engine
    from secateur.data.loader import LoaderData
    from secateur.distillation import SoftTargets, distilled
    from secateur.errors import SecateurError
    from secateur.export import export_onnx
    from secateur.hub import from_pretrained, push_to_hub, save_pretrained
    from secateur.oneshot.call import prune
    from secateur.oneshot.result import Result
    from secateur.pruning.budget import Budget
    from secateur.pruning.calibration import Calibration
    from secateur.pruning.channels.coupling import channel_groups
    from secateur.pruning.channels.cut import ChannelCut, select_channels
    from secateur.pruning.gate_phase import GatePhase, learn_gates
    from secateur.pruning.gates import Gates
    from secateur.pruning.loops.gate_training import GateTraining
    from secateur.pruning.loops.mask_hold import MaskHold
    from secateur.pruning.masks import Masks
    from secateur.pruning.parameters import prunable
    from secateur.pruning.recovery.batchnorm import recalibrate
    from secateur.pruning.recovery.descent import Rung, descend
    from secateur.pruning.recovery.finetune import finetune
    from secateur.pruning.recovery.reconstruct import prune_gradually, reconstruct
    from secateur.pruning.saving.model_file import load, packed_bytes, save
    from secateur.pruning.saving.reading import load_masks, read
    from secateur.pruning.saving.torch_prune import convert_state_dict, from_torch_prune
    from secateur.pruning.selection import select
    from secateur.pruning.shrinking import Shrunk, shrink
    from secateur.semi_structured import to_semi_structured
    from secateur.study.loading import load_task
    from secateur.study.metrics import Metric
    from secateur.study.study import Study
    from secateur.study.task import Task, classification
    from secateur.training import Recipe, train

__version__ = "0.1.0"

_HOMES = {
    "Budget": "secateur.pruning.budget",
    "Calibration": "secateur.pruning.calibration",
    "ChannelCut": "secateur.pruning.channels.cut",
    "Engine": "secateur.compiler.runtime",
    "GatePhase": "secateur.pruning.gate_phase",
    "GateTraining": "secateur.pruning.loops.gate_training",
    "Gates": "secateur.pruning.gates",
    "LoaderData": "secateur.data.loader",
    "MaskHold": "secateur.pruning.loops.mask_hold",
    "Masks": "secateur.pruning.masks",
    "Metric": "secateur.study.metrics",
    "Recipe": "secateur.training",
    "Result": "secateur.oneshot.result",
    "Rung": "secateur.pruning.recovery.descent",
    "SecateurError": "secateur.errors",
    "Shrunk": "secateur.pruning.shrinking",
    "SoftTargets": "secateur.distillation",
    "Study": "secateur.study.study",
    "Task": "secateur.study.task",
    "channel_groups": "secateur.pruning.channels.coupling",
    "classification": "secateur.study.task",
    "compile": "secateur.compiler.call",
    "compile_network": "secateur.compiler.pipeline",
    "convert_state_dict": "secateur.pruning.saving.torch_prune",
    "descend": "secateur.pruning.recovery.descent",
    "distilled": "secateur.distillation",
    "export_onnx": "secateur.export",
    "finetune": "secateur.pruning.recovery.finetune",
    "from_pretrained": "secateur.hub",
    "from_torch_prune": "secateur.pruning.saving.torch_prune",
    "learn_gates": "secateur.pruning.gate_phase",
    "load": "secateur.pruning.saving.model_file",
    "load_masks": "secateur.pruning.saving.reading",
    "load_task": "secateur.study.loading",
    "packed_bytes": "secateur.pruning.saving.model_file",
    "prunable": "secateur.pruning.parameters",
    "prune": "secateur.oneshot.call",
    "prune_gradually": "secateur.pruning.recovery.reconstruct",
    "push_to_hub": "secateur.hub",
    "read": "secateur.pruning.saving.reading",
    "recalibrate": "secateur.pruning.recovery.batchnorm",
    "reconstruct": "secateur.pruning.recovery.reconstruct",
    "save": "secateur.pruning.saving.model_file",
    "save_pretrained": "secateur.hub",
    "select": "secateur.pruning.selection",
    "select_channels": "secateur.pruning.channels.cut",
    "shrink": "secateur.pruning.shrinking",
    "to_semi_structured": "secateur.semi_structured",
    "train": "secateur.training",
}

__all__ = [
    "Budget",
    "Calibration",
    "ChannelCut",
    "Engine",
    "GatePhase",
    "GateTraining",
    "Gates",
    "LoaderData",
    "MaskHold",
    "Masks",
    "Metric",
    "Recipe",
    "Result",
    "Rung",
    "SecateurError",
    "Shrunk",
    "SoftTargets",
    "Study",
    "Task",
    "channel_groups",
    "classification",
    "compile",
    "compile_network",
    "convert_state_dict",
    "descend",
    "distilled",
    "export_onnx",
    "finetune",
    "from_pretrained",
    "from_torch_prune",
    "learn_gates",
    "load",
    "load_masks",
    "load_task",
    "packed_bytes",
    "prunable",
    "prune",
    "prune_gradually",
    "push_to_hub",
    "read",
    "recalibrate",
    "reconstruct",
    "save",
    "save_pretrained",
    "select",
    "select_channels",
    "shrink",
    "to_semi_structured",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
