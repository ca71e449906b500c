"""Train once, prune to any ratio, with proof, and ship it.

The public names are imported when they are first used, so that importing secateur is cheap and
what needs no torch never loads it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from secateur.version import VERSION

if TYPE_CHECKING:
    from secateur.compiler.call import compile
    from secateur.compiler.pipeline import compile_network
    from secateur.compiler.runtime import Engine
    from secateur.data.loader import LoaderData
    from secateur.distillation import SoftTargets, distilled
    from secateur.errors import SecateurError
    from secateur.export import export_onnx
    from secateur.onecall.call import prune
    from secateur.onecall.goal import Goal
    from secateur.onecall.result import Result
    from secateur.pruning.adapters import merge_adapters
    from secateur.pruning.calibration import Calibration
    from secateur.pruning.channels.coupling import channel_groups
    from secateur.pruning.channels.cut import ChannelCut, select_channels
    from secateur.pruning.files.hub import from_pretrained, push_to_hub, save_pretrained
    from secateur.pruning.files.model_file import load, packed_bytes, save
    from secateur.pruning.files.reading import load_masks, read
    from secateur.pruning.files.torch_prune import convert_state_dict, from_torch_prune
    from secateur.pruning.gates.gate_training import GateTraining
    from secateur.pruning.gates.gates import Gates
    from secateur.pruning.gates.learning import learn_gates
    from secateur.pruning.gates.mask_hold import MaskHold
    from secateur.pruning.gates.phase import GatePhase
    from secateur.pruning.ladder.descent import Rung, descend
    from secateur.pruning.ladder.gradual import prune_gradually
    from secateur.pruning.parameters import prunable
    from secateur.pruning.recovery.batchnorm import recalibrate
    from secateur.pruning.recovery.finetune import finetune
    from secateur.pruning.recovery.reconstruct import reconstruct
    from secateur.pruning.selecting.budget import Budget
    from secateur.pruning.selecting.masks import Masks
    from secateur.pruning.selecting.selection import select
    from secateur.pruning.smaller.reordering import Reordered, reorder
    from secateur.pruning.smaller.semi_structured import to_semi_structured
    from secateur.pruning.smaller.shrinking import Shrunk, shrink
    from secateur.quantization.call import quantize
    from secateur.quantization.result import Quantized
    from secateur.quantization.training import QuantizedTraining
    from secateur.study.loading import load_task
    from secateur.study.metrics import Metric
    from secateur.study.study import Study
    from secateur.study.task import Task, classification
    from secateur.training import Recipe, train

__version__ = VERSION

_HOMES = {
    "Budget": "secateur.pruning.selecting.budget",
    "Calibration": "secateur.pruning.calibration",
    "ChannelCut": "secateur.pruning.channels.cut",
    "Engine": "secateur.compiler.runtime",
    "GatePhase": "secateur.pruning.gates.phase",
    "GateTraining": "secateur.pruning.gates.gate_training",
    "Gates": "secateur.pruning.gates.gates",
    "Goal": "secateur.onecall.goal",
    "LoaderData": "secateur.data.loader",
    "MaskHold": "secateur.pruning.gates.mask_hold",
    "Masks": "secateur.pruning.selecting.masks",
    "Metric": "secateur.study.metrics",
    "Quantized": "secateur.quantization.result",
    "QuantizedTraining": "secateur.quantization.training",
    "Recipe": "secateur.training",
    "Reordered": "secateur.pruning.smaller.reordering",
    "Result": "secateur.onecall.result",
    "Rung": "secateur.pruning.ladder.descent",
    "SecateurError": "secateur.errors",
    "Shrunk": "secateur.pruning.smaller.shrinking",
    "SoftTargets": "secateur.distillation",
    "Study": "secateur.study.study",
    "Task": "secateur.study.task",
    "channel_groups": "secateur.pruning.channels.coupling",
    "classification": "secateur.study.task",
    "compile": "secateur.compiler.call",
    "compile_network": "secateur.compiler.pipeline",
    "convert_state_dict": "secateur.pruning.files.torch_prune",
    "descend": "secateur.pruning.ladder.descent",
    "distilled": "secateur.distillation",
    "export_onnx": "secateur.export",
    "finetune": "secateur.pruning.recovery.finetune",
    "from_pretrained": "secateur.pruning.files.hub",
    "from_torch_prune": "secateur.pruning.files.torch_prune",
    "learn_gates": "secateur.pruning.gates.learning",
    "load": "secateur.pruning.files.model_file",
    "load_masks": "secateur.pruning.files.reading",
    "load_task": "secateur.study.loading",
    "merge_adapters": "secateur.pruning.adapters",
    "packed_bytes": "secateur.pruning.files.model_file",
    "prunable": "secateur.pruning.parameters",
    "prune": "secateur.onecall.call",
    "prune_gradually": "secateur.pruning.ladder.gradual",
    "push_to_hub": "secateur.pruning.files.hub",
    "quantize": "secateur.quantization.call",
    "read": "secateur.pruning.files.reading",
    "recalibrate": "secateur.pruning.recovery.batchnorm",
    "reconstruct": "secateur.pruning.recovery.reconstruct",
    "reorder": "secateur.pruning.smaller.reordering",
    "save": "secateur.pruning.files.model_file",
    "save_pretrained": "secateur.pruning.files.hub",
    "select": "secateur.pruning.selecting.selection",
    "select_channels": "secateur.pruning.channels.cut",
    "shrink": "secateur.pruning.smaller.shrinking",
    "to_semi_structured": "secateur.pruning.smaller.semi_structured",
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
    "Goal",
    "LoaderData",
    "MaskHold",
    "Masks",
    "Metric",
    "Quantized",
    "QuantizedTraining",
    "Recipe",
    "Reordered",
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
    "merge_adapters",
    "packed_bytes",
    "prunable",
    "prune",
    "prune_gradually",
    "push_to_hub",
    "quantize",
    "read",
    "recalibrate",
    "reconstruct",
    "reorder",
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
