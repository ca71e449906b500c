"""Calls that read, write and compile files, with right arguments and wrong values for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import secateur
from secateur.compiler import pipeline
from wrong_values import (
    ARRAY,
    MODEL,
    NO_BOOL,
    NO_FUNCTION,
    NO_MODULE,
    NO_PATH,
    NO_TEXT,
    OPTIONS,
    Call,
    X,
    content,
    engine,
    net,
    pruned,
    quantized,
    task,
)

FILE_CALLS: dict[str, Call] = {
    "Engine": (
        secateur.Engine,
        {"source": b""},
        {"source": [3, None, net(), "a\0b", ["x"]], "threads": ["x", 0, 1.5]},
    ),
    "Engine.load": (secateur.Engine.load, {"path": "x"}, {"path": NO_PATH}),
    "Engine.profile": (
        lambda **a: engine().profile(ARRAY, **a), {}, {"repeats": ["x", 0, 1.5, None]}
    ),
    "Masks.load": (secateur.Masks.load, {"path": "x"}, {"path": NO_PATH}),
    "Masks.save": (
        pruned()[1].masks.save, {"path": "x"}, {"path": NO_PATH, "force": NO_BOOL}
    ),
    "QuantizedTraining": (
        secateur.QuantizedTraining,
        {"model": net(), "data": X},
        {
            "model": NO_MODULE,
            "data": [None, 3, "x", ["x"], {"input": 3}],
            "keep_float": [3, "x", (3,), ["x"]],
        },
    ),
    "QuantizedTraining.of": (secateur.QuantizedTraining.of, {"model": None}, {"model": NO_MODULE}),
    "quantize": (
        secateur.quantize,
        {"model": content(), "data": ARRAY},
        {
            "model": [None, 3, {}, task(), np.ones(3), torch.nn.Linear],
            "data": [None, 3, "x", ["x"], {"input": 3}],
            "score": NO_FUNCTION,
            "max_drop": ["x", [1], True, float("nan"), -1],
            "keep_float": [3, "x", (3,), ["x"]],
            "ranges": [3, "best", ["mse"]],
            "input_shapes": OPTIONS["input_shapes"],
            "fixed": OPTIONS["fixed"],
            "progress": NO_FUNCTION,
        },
    ),
    "Quantized.save": (quantized().save, {"path": "x"}, {"path": NO_PATH, "force": NO_BOOL}),
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
        secateur.convert_state_dict,
        {"state": {}},
        {"state": [None, 3, "x", net(), {1: 2}, {"a_orig": 3, "a_mask": 5}]},
    ),
    "emit_c": (
        pipeline.emit_c,
        {"source": content(), "folder": "c"},
        {
            "source": [None, 3, {}], "folder": NO_PATH, "force": NO_BOOL,
            "prefix": [*NO_TEXT, "9 lives"], **OPTIONS,
        },
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
    "from_pretrained": (
        secateur.from_pretrained, {"folder": "x"}, {"folder": NO_PATH, "trust": NO_BOOL}
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
    "push_to_hub": (
        secateur.push_to_hub,
        {"folder": "x", "repo_id": "a/b"},
        {"folder": NO_PATH, "repo_id": [*NO_TEXT, None]},
    ),
    "read": (secateur.read, {"path": "x"}, {"path": NO_PATH}),
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
    "save_pretrained": (
        secateur.save_pretrained,
        {"model": net(), "folder": "x"},
        {
            **MODEL,
            "folder": NO_PATH,
            "config": [3, "x", {"a": {1, 2}}],
            "packed": NO_BOOL,
            "masks": [3, "x", {"2.weight": X}],
            "gates": NO_BOOL,
            "architecture": [3, ("a",), "nocolon"],
            "provenance": [3, "x", {"a": {1, 2}}],
        },
    ),
}  # fmt: skip
