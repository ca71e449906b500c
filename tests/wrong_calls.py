"""Calls that prune, train and study, with right arguments and wrong values for each."""

from __future__ import annotations

import numpy as np
from torch import nn

import secateur
from wrong_values import (
    ARRAY,
    LOSS,
    MODEL,
    NO_BOOL,
    NO_BUDGET,
    NO_DATA,
    NO_FUNCTION,
    NO_GLOBS,
    NO_MASKS,
    NO_MODULE,
    NO_NUMBER,
    NO_SEED,
    NO_TEXT,
    SOLVING,
    STATES,
    TRAINING,
    Call,
    X,
    gated,
    gating,
    loader,
    net,
    pruned,
    sgd,
    study,
    task,
)

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
            "targets": [X, ARRAY, (ARRAY,), 3, "x", (5,)],
            "loss": NO_FUNCTION,
            "autocast": NO_BOOL,
        },
    ),
    "Calibration.of": (
        secateur.Calibration.of,
        {"data": X},
        {
            "data": ["x", 3, None, ARRAY, [ARRAY], [(ARRAY, ARRAY)], {"input": ARRAY}],
            "loss": NO_FUNCTION,
            "samples": ["x", 0, 1.5, None],
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
        {"state": [3, "x", None, {}, {"gates": {}}, *STATES]},
    ),
    "Gates.attach": (
        secateur.Gates.attach,
        {"model": net(), "names": ["2.weight"]},
        {**MODEL, "names": ["2.weight", 3, None, [3]]},
    ),
    "Gates.of": (secateur.Gates.of, {"model": gated()}, MODEL),
    "Goal": (
        secateur.Goal,
        {},
        {
            "latency_ms": ["x", [1], float("nan"), -1],
            "params": ["x", True, 0],
            "macs": ["x"],
            "bytes": ["1MB"],
        },
    ),
    "Goal with a metric": (
        secateur.Goal,
        {"max_drop": 1, "evaluate": len},
        {
            "max_drop": ["x", True, -1],
            "evaluate": NO_FUNCTION,
            "higher_is_better": NO_BOOL,
        },
    ),
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
            "optimizer": ["x", 3, None],
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
        {"keep": ["x", None, 2, True], "criterion": [3, "size"], "seed": ["a", 9, 1.5],
         "recovery": [3, "finetune"]},
    ),
    "Study.onnx": (lambda **a: study().onnx(**a), {"keep": 0.5}, {"keep": ["x", None, 2]}),
    "Study.run": (
        lambda **a: study().run(**a),
        {},
        {"observe": [3, "x", None], "workers": [0, -1, 1.5, True, "2"]},
    ),
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
    "channel_groups": (
        secateur.channel_groups,
        {"model": net(), "example": X},
        {**MODEL, "example": [ARRAY, [ARRAY], None, 3, "x"], "exclude": NO_GLOBS},
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
    "descend": (
        secateur.descend,
        {
            "model": gated(), "rungs": [secateur.Rung(0.5)], "data": loader(), "loss": LOSS,
            "seed": 0,
        },
        {
            "model": NO_MODULE,
            "rungs": [0.5, [0.5], None, "x", secateur.Rung(0.5)],
            "data": NO_DATA,
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
    "finetune": (
        secateur.finetune,
        {"model": net(), "masks": None, "data": loader(), "loss": LOSS, "seed": 0},
        {**TRAINING, "masks": NO_MASKS, "data": NO_DATA, "recipe": [1, "x", None]},
    ),
    "from_torch_prune": (secateur.from_torch_prune, {"model": net()}, MODEL),
    "learn_gates": (
        secateur.learn_gates,
        {
            "model": net(), "names": ["2.weight"], "data": loader(), "recipe": secateur.Recipe(1),
            "loss": LOSS, "seed": 0,
        },
        {**TRAINING, "names": ["2.weight", 3, None, [3]], "data": NO_DATA, "phase": [3, "x"]},
    ),
    "prunable": (
        secateur.prunable,
        {"model": net()},
        {
            **MODEL,
            "include_first": NO_BOOL,
            "exclude": NO_GLOBS,
            "include": NO_GLOBS,
            "pattern": ["9:4", "x"],
            "example": [ARRAY, [ARRAY]],
        },
    ),
    "prune": (
        secateur.prune,
        {"model": net(), "keep": 0.5},
        {
            **MODEL,
            "keep": ["0.1", 1.5, 0, True, float("nan"), [0.1]],
            "goal": [3, "params", {"params": 5}],
            "criterion": [3, "size", ["magnitude"]],
            "data": ["x", 3, ARRAY, [ARRAY], [(ARRAY, ARRAY)], {"input": ARRAY}],
            "loss": NO_FUNCTION,
            "example": ["x", 3, ARRAY, [ARRAY], {"input": ARRAY}],
            "pattern": [3, None, "9:4", "x"],
            "plan": [3, "2.weight", ["2.weight"]],
            "minimum": ["x", 0, 1.5],
            "multiple": ["x", 0, 1.5],
            "recover": ["x", 3, ["none"]],
            "in_place": NO_BOOL,
            "seed": NO_SEED,
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
    "select_channels": (
        secateur.select_channels,
        {
            "scores": {}, "groups": secateur.channel_groups(net(), X),
            "budget": secateur.Budget(0.5),
        },
        {
            "groups": [3, None, {}],
            "budget": NO_BUDGET,
            "minimum": ["x", -1, 1.5, None],
            "multiple": ["x", 0, 1.5, None],
        },
    ),
    "merge_adapters": (
        secateur.merge_adapters,
        {"model": net(), "masks": None},
        {**MODEL, "masks": [0.5, {}, "x"]},
    ),
    "reorder": (
        secateur.reorder,
        {"model": net(), "example": X, "size": 4},
        {**MODEL, "example": [ARRAY, [ARRAY], None, 3, "x"], "size": [0, 1, 2.5, "4", True]},
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
        {**TRAINING, "data": NO_DATA},
    ),
}  # fmt: skip

# What is not called with arguments of a user's own, and what is tried in tests of its own.
ELSEWHERE = {"Result", "Reordered", "Shrunk", "SecateurError", "ChannelCut"}
