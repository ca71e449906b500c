"""Calls of every public name, with arguments that are right and values that are wrong for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateur
from secateur.compiler import pipeline
from wrong_values import (
    ARRAY,
    LOSS,
    MODEL,
    NO_BOOL,
    NO_BUDGET,
    NO_FUNCTION,
    NO_MASKS,
    NO_MODULE,
    NO_NUMBER,
    NO_PATH,
    NO_SEED,
    NO_TEXT,
    OPTIONS,
    SOLVING,
    TRAINING,
    X,
    content,
    engine,
    gated,
    gating,
    loader,
    net,
    pruned,
    sgd,
    study,
    task,
)

# name → the call, arguments that are right, and for some of them values that are wrong
Call = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]
CALLS: dict[str, Call] = {
    "Budget": (
        secateur.Budget,
        {"keep": 0.5},
        {
            "keep": ["0.1", None, True, 1.5, 0, -1, float("nan"), [0.1], X, np.ones(2), 1j],
            "scope": [3, "x", None],
            "floor": ["x", 2, -0.1, None],
            "pattern": [3, None, "9:4", "x"],
            "overrides": [3, "ab", {"a": "b"}, {3: 0.1}],
        },
    ),
    "Calibration": (
        secateur.Calibration,
        {"inputs": (X,)},
        {
            "inputs": [X, ARRAY, (ARRAY,), 3, None, "x", iter([X])],
            "targets": [X, ARRAY, (ARRAY,), 3, "x"],
            "loss": NO_FUNCTION,
            "autocast": NO_BOOL,
        },
    ),
    "GatePhase": (
        secateur.GatePhase,
        {},
        {
            "lowest_keep": ["x", 0, None],
            "dense_steps": ["x", 1],
            "gate_rate": ["x", 0],
            "weights": [3, "x", None],
            "order": [3, "x"],
            "decay": [3, "x"],
            "scope": [3, "x"],
            "floor": ["x", 2],
        },
    ),
    "GateTraining": (
        gating,
        {},
        {
            "model": [None, 3, "x"],
            "optimizer": [3, None, "sgd"],
            "phase": [3, "x"],
            "plan": [3, ["2.weight"]],
        },
    ),
    "GateTraining.finish": (
        lambda **a: gating().finish(**a), {"budget": None}, {"budget": NO_BUDGET}
    ),
    "GateTraining.load_state_dict": (
        lambda **a: gating().load_state_dict(**a),
        {"state": None},
        {"state": [3, "x", None, {}, {"gates": {}}]},
    ),
    "Gates.attach": (
        secateur.Gates.attach,
        {"model": net(), "names": ["2.weight"]},
        {**MODEL, "names": ["2.weight", 3, None, [3]]},
    ),
    "Gates.of": (secateur.Gates.of, {"model": gated()}, MODEL),
    "LoaderData": (
        secateur.LoaderData,
        {"training": [(X, X)]},
        {"training": [3, None, iter([(X, X)])], "device": [3.5, "vax", None]},
    ),
    "MaskHold": (
        secateur.MaskHold,
        {"model": net(), "optimizer": sgd(net()), "masks": None},
        {"masks": NO_MASKS, **MODEL, "optimizer": [3, None, "sgd"]},
    ),
    "Masks": (
        secateur.Masks,
        {"masks": {"a": X > 0}},
        {"masks": [3, None, "x", {"a": X}, {"a": 3}, {"a": ARRAY}]},
    ),
    "Masks.apply": (pruned()[1].masks.apply, {"model": net()}, MODEL),
    "Masks.load": (secateur.Masks.load, {"path": "x"}, {"path": NO_PATH}),
    "Masks.save": (
        pruned()[1].masks.save, {"path": "x"}, {"path": NO_PATH, "force": NO_BOOL}
    ),
    "Metric": (
        secateur.Metric,
        {"name": "m", "unit": "%", "function": LOSS},
        {
            "name": NO_TEXT,
            "unit": NO_TEXT,
            "function": [3, "x", None],
            "higher_is_better": NO_BOOL,
            "margin": ["x", 0, float("nan"), [1]],
        },
    ),
    "Recipe": (
        secateur.Recipe,
        {"epochs": 1},
        {
            "epochs": ["x", 0, 1.5, None, True],
            "batch_size": ["x", 0],
            "rate": ["x", None, 0],
            "momentum": ["x", 1],
            "weight_decay": ["x", -1],
            "schedule": ["x", 3, []],
            "warmup": ["x", 1],
            "precision": ["x", 3],
        },
    ),
    "Rung": (
        secateur.Rung,
        {"keep": 0.5},
        {
            "keep": ["x", None, 2, True],
            "learn": [3, "x"],
            "settle": [3, "x"],
            "share": ["x", 0],
            "reconstruct": NO_BOOL,
        },
    ),
    "SoftTargets": (secateur.SoftTargets, {}, {"temperature": ["x", 0, None]}),
    "Study": (
        study,
        {},
        {
            "task": [nn.Linear(2, 2), "digits", 3, secateur.classification, {}],
            "options": [{}, 3, "x"],
            "out": [3, b"x", "a\0b", ["x"]],
            "device": [3, None, "vax"],
            "keep": [1.5, 0, -1, float("nan"), "0.1", True, None, (0.5, "a"), {0.5}, {0.5: 1}],
            "seeds": ["3", 0, 1.5, None, True, (0, 1)],
            "criteria": ["size", 3, None, (3,), ("gate", "gate"), {"gate"}],
            "epochs": ["1", 0, 1.5, None],
            "scope": [3, "x"],
            "precision": [3, "x"],
            "first_layer": NO_BOOL,
            "margin": ["x", -1],
            "confidence": ["x", 2],
        },
    ),
    "Study.network": (
        lambda **a: study().network(**a),
        {"keep": 0.5},
        {"keep": ["x", None, 2, True], "criterion": [3, "size"], "seed": ["a", 9, 1.5]},
    ),
    "Study.onnx": (lambda **a: study().onnx(**a), {"keep": 0.5}, {"keep": ["x", None, 2]}),
    "Study.run": (lambda **a: study().run(**a), {}, {"observe": [3, "x", None]}),
    "Task": (
        secateur.Task,
        {"name": "t", "model": net, "data": loader, "loss": LOSS, "metric": task().metric},
        {
            "name": [3, None, net()],
            "model": [3, None, "x", net()],
            "data": [3, None, [(X, X)]],
            "loss": [3, None, "ce"],
            "metric": [3, None, "accuracy", LOSS],
            "description": [3, "x", None],
            "imitation": NO_FUNCTION,
            "output": NO_FUNCTION,
            "train": NO_FUNCTION,
        },
    ),
    "classification": (
        secateur.classification,
        {"data": "digits", "net": "mlp"},
        {
            "data": [3, None, "mnist"],
            "net": [3, None, "alexnet"],
            "label_smoothing": ["x", None, 1, -0.1, True],
            "data_dir": [3, b"x"],
            "progress": NO_BOOL,
        },
    ),
    "compile": (
        secateur.compile,
        {"model": content()},
        {
            "model": [None, 3, {}, task(), np.ones(3)],
            "out": [3, b"x", "a\0b", ["x"]],
            "threads": ["x", 0, 1.5],
            "force": NO_BOOL,
            **OPTIONS,
        },
    ),
    "compile of a module": (
        secateur.compile,
        {"model": net(), "example": X},
        {"example": [3, "x", [], (3,), ARRAY, [ARRAY], {"input": ARRAY}]},
    ),
    "compile_network": (
        secateur.compile_network,
        {"source": content()},
        {"source": [None, 3, {}, net(), "a\0b"], **OPTIONS},
    ),
    "convert_state_dict": (
        secateur.convert_state_dict, {"state": {}}, {"state": [None, 3, "x", net()]}
    ),
    "descend": (
        secateur.descend,
        {
            "model": gated(), "rungs": [secateur.Rung(0.5)], "data": loader(), "loss": LOSS,
            "seed": 0,
        },
        {
            "model": NO_MODULE,
            "rungs": [0.5, [0.5], None, "x", secateur.Rung(0.5)],
            "loss": NO_FUNCTION,
            "phase": [3, "x"],
            "seed": NO_SEED,
            "watch": NO_FUNCTION,
        },
    ),
    "distilled": (
        secateur.distilled,
        {
            "data": loader(), "loss": LOSS, "teacher": net(), "imitation": LOSS, "weight": 0.5,
            "autocast": False,
        },
        {
            "loss": NO_FUNCTION,
            "teacher": NO_MODULE,
            "imitation": NO_FUNCTION,
            "weight": [*NO_NUMBER, 2],
            "autocast": NO_BOOL,
        },
    ),
    "emit_c": (
        pipeline.emit_c,
        {"source": content(), "folder": "c"},
        {"source": [None, 3, {}], "folder": NO_PATH, "force": NO_BOOL, **OPTIONS},
    ),
    "Engine": (
        secateur.Engine,
        {"source": b""},
        {"source": [3, None, net(), "a\0b", ["x"]], "threads": ["x", 0, 1.5]},
    ),
    "Engine.load": (secateur.Engine.load, {"path": "x"}, {"path": NO_PATH}),
    "Engine.profile": (
        lambda **a: engine().profile(ARRAY, **a), {}, {"repeats": ["x", 0, 1.5, None]}
    ),
    "export_onnx": (
        secateur.export_onnx,
        {"model": net(), "example": X, "path": "x.onnx"},
        {
            **MODEL,
            "example": [None, 3, "x", [], [3], {}, ARRAY, [ARRAY]],
            "path": NO_PATH,
            "tolerance": ["x", -1, float("nan")],
            "batched": NO_BOOL,
            "force": NO_BOOL,
        },
    ),
    "finetune": (
        secateur.finetune,
        {"model": net(), "masks": None, "data": loader(), "loss": LOSS, "seed": 0},
        {**TRAINING, "masks": NO_MASKS, "recipe": [1, "x", None]},
    ),
    "from_torch_prune": (secateur.from_torch_prune, {"model": net()}, MODEL),
    "learn_gates": (
        secateur.learn_gates,
        {
            "model": net(), "names": ["2.weight"], "data": loader(), "recipe": secateur.Recipe(1),
            "loss": LOSS, "seed": 0,
        },
        {**TRAINING, "names": ["2.weight", 3, None, [3]], "phase": [3, "x"]},
    ),
    "load": (
        secateur.load,
        {"path": "x"},
        {"path": NO_PATH, "factory": NO_FUNCTION, "trust": NO_BOOL},
    ),
    "load_masks": (secateur.load_masks, {"path": "x"}, {"path": NO_PATH}),
    "load_task": (
        secateur.load_task,
        {"reference": "x.py:task"},
        {"reference": [3, None, "x", ":", "x.py:", Path("x.py:task"), "a\0b.py:task", "none.py:t"]},
    ),
    "packed_bytes": (
        secateur.packed_bytes,
        {"model": net()},
        {
            "model": [*NO_MODULE[:3], [X], {3: X}],
            "masks": [3, "x", {"2.weight": X}],
            "gates": NO_BOOL,
            "dtype": [3, "float16", torch.int8],
            "budget": [0.5, "x"],
        },
    ),
    "prune": (
        secateur.prune,
        {"model": net(), "keep": 0.5},
        {
            **MODEL,
            "keep": ["0.1", 1.5, 0, True, float("nan"), [0.1]],
            "criterion": [3, "size", ["magnitude"]],
            "data": ["x", 3, ARRAY, [ARRAY], [(ARRAY, ARRAY)], {"input": ARRAY}],
            "loss": NO_FUNCTION,
            "example": ["x", 3, ARRAY, [ARRAY], {"input": ARRAY}],
            "scope": [3, "x"],
            "floor": ["x", 2],
            "pattern": [3, None, "9:4", "x"],
            "overrides": [3, "x", {"a": "b"}],
            "exclude": [3, (3,), "0.*", None],
            "include_first": NO_BOOL,
            "minimum": ["x", 0, 1.5],
            "multiple": ["x", 0, 1.5],
            "recover": ["x", 3, ["none"]],
            "autocast": NO_BOOL,
            "in_place": NO_BOOL,
            "seed": NO_SEED,
            "evaluate": NO_FUNCTION,
            "higher_is_better": NO_BOOL,
        },
    ),
    "prune to a goal": (
        secateur.prune,
        {"model": net(), "example": X},
        {
            "latency_ms": ["x", None, [1], float("nan"), -1],
            "max_drop": ["x", None, True],
            "params": ["x", True, None],
            "macs": ["x", None],
            "bytes": ["1MB", None],
        },
    ),
    "prune_gradually": (
        secateur.prune_gradually,
        {
            "model": net(), "names": ["2.weight"], "budgets": [secateur.Budget(0.5)],
            "calibration": secateur.Calibration((X,)),
        },
        {
            **MODEL,
            "names": ["2.weight", 3, None],
            "budgets": [0.5, [0.5], None, secateur.Budget(0.5)],
            "criterion": ["size", 3],
            "step": ["x", 0, 1, None],
            "images": ["x", 0, 1.5],
            **SOLVING,
        },
    ),
    "read": (secateur.read, {"path": "x"}, {"path": NO_PATH}),
    "recalibrate": (
        secateur.recalibrate,
        {"model": net(), "inputs": [X]},
        {**MODEL, "inputs": [3, None, "x", ARRAY, [ARRAY]], "autocast": NO_BOOL},
    ),
    "reconstruct": (
        secateur.reconstruct,
        {
            "model": net(), "dense": net(), "masks": None,
            "calibration": secateur.Calibration((X,)),
        },
        {"masks": NO_MASKS, "model": NO_MODULE, "dense": NO_MODULE, **SOLVING},
    ),
    "save": (
        secateur.save,
        {"model": net(), "path": "x"},
        {
            "model": [*NO_MODULE[:3], [X], {3: X}],
            "path": NO_PATH,
            "masks": [3, "x", {}, {"2.weight": X}],
            "gates": NO_BOOL,
            "dtype": [3, "float16", torch.int8],
            "budget": [0.5, "x"],
            "architecture": [3, ("a",), "nocolon", ("a:b", 3)],
            "provenance": [3, "x", {"a": {1, 2}}],
            "force": NO_BOOL,
        },
    ),
    "select": (
        secateur.select,
        {"scores": {"a": X}, "budget": secateur.Budget(0.5)},
        {
            "scores": [X, 3, None, {"a": 3}],
            "budget": NO_BUDGET,
            "axes": [3, "x"],
            "method": ["x", 3],
            "chunk": ["x", 0],
        },
    ),
    "shrink": (
        secateur.shrink,
        {"model": net(), "cut": None, "example": X},
        {**MODEL, "cut": [0.5, pruned()[1].masks, "x"], "example": [ARRAY, [ARRAY], None, 3, "x"]},
    ),
    "to_semi_structured": (
        secateur.to_semi_structured,
        {"model": net()},
        {**MODEL, "example": [ARRAY, [ARRAY]], "graph": NO_BOOL},
    ),
    "train": (
        secateur.train,
        {
            "model": net(), "data": loader(), "recipe": secateur.Recipe(1), "loss": LOSS,
            "seed": 0,
        },
        TRAINING,
    ),
}  # fmt: skip

# What is not called with arguments of a user's own, and what is tried in tests of its own.
ELSEWHERE = {"Result", "Shrunk", "SecateurError", "ChannelCut"}
ELSEWHERE |= {"prunable", "channel_groups", "select_channels"}
ELSEWHERE |= {"from_pretrained", "push_to_hub", "save_pretrained"}
