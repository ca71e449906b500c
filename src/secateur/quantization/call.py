"""Quantise in one call: any float network in, an int8 network in QDQ form out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur.arguments import BOOL, FUNCTION, TEXTS, Wanted, checked, is_real, shown
from secateur.compiler import destination
from secateur.compiler.fixed_inputs import VALUES as FIXED
from secateur.compiler.fixed_inputs import Value
from secateur.compiler.graph import EMPTY
from secateur.errors import CompileError, UsageError
from secateur.errors import whole as is_whole
from secateur.quantization import (
    equalizing,
    inputs,
    running,
    sensitivity,
    smoothing,
    weights,
    writing,
)
from secateur.quantization import (
    network as networks,
)
from secateur.quantization import (
    plan as plans,
)
from secateur.quantization.network import Float
from secateur.quantization.placement import Layer, layers_of
from secateur.quantization.plan import Choice, Plan
from secateur.quantization.ranges import METHODS
from secateur.quantization.result import Quantized, Row
from secateur.quantization.search import Search

EXAMPLE = 2
"""Samples of the data that a torch module is traced with."""

ANEW = 0.75
"""Below this part of the error that there was, a changed network gets a choice of its own."""

WORTH = 0.75
"""Float values are divided, which takes time in use, where the error is then at most so many times
what it is without."""

Score = Callable[[Any], float]


def _quiet(text: str) -> None:
    pass


_SHAPES = Wanted(
    lambda v: all(
        isinstance(shape, (tuple, list)) and all(map(is_whole, shape)) for shape in v.values()
    ),
    "input → shape, a tuple of whole numbers",
)


@checked(
    ranges=Wanted(lambda v: v in METHODS, f"one of {', '.join(METHODS)}"),
    input_shapes=_SHAPES,
    fixed=FIXED,
    score=FUNCTION,
    keep_float=TEXTS,
    exact=BOOL,
    max_drop=Wanted(lambda v: is_real(v) and float(v) >= 0, "a number, 0 or more"),
    progress=FUNCTION,
)
def quantize(
    model: Any,
    data: Any,
    *,
    score: Score | None = None,
    max_drop: float | None = None,
    keep_float: Iterable[str] = (),
    exact: bool = False,
    ranges: str | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, Value] = EMPTY,
    progress: Callable[[str], None] = _quiet,
) -> Quantized:
    """Quantise a network after training: weights to int8, values between layers to uint8.

    Weights have one scale for each output, symmetric in [-127, 127]; zeros stay zeros. Values have
    one scale and zero point, and 0 is exact. Ranges (the least and the greatest number seen, three
    percentiles, the smallest mean squared error), clipped weights, corrected biases and channels of
    more equal size are tried, and what gives the smallest error of the outputs on held-back samples
    is taken. What a linear layer rounds itself has its channels divided before where the error is
    smaller by a quarter, for that takes time in use.

    Args:
        model: an ONNX file, its content, or a torch module.
        data: a few hundred inputs like those in use, without labels: an array [n, ...] for a
            network of one input, arrays in the order of the inputs, or input → array. Torch
            tensors are taken, too.
        score: outputs for all the data → how good they are, higher being better. It gets an array
            [n, ...], or output → array where there are several outputs.
        max_drop: by how much the score may fall; without `score`, how large the relative error of
            the outputs may be (0.05 for 5 %). Layers go back to float32, the most sensitive first,
            until that holds.
        keep_float: names of layers that stay in float32.
        exact: compute functions of one number, such as GELU, in float32 on what a layer gives, and
            not from a table of its 256 rounded values: nearer to the float network, and slower.
        ranges: how ranges of values are chosen, of `METHODS`; by default the best is found.
        input_shapes: shapes of inputs that are dynamic beyond the batch.
        fixed: inputs of an ONNX file that become constants, for which there are no data: input → a
            number, nested lists, or an array.
        progress: is called with what is going on.

    Raises:
        UsageError: data that do not fit the network; a model that is quantised already; a name
            that is no layer; a score that is no number.
        CompileError: the network cannot be read, or has no layer that can be quantised.
        FileError: the model cannot be read.
    """
    if score is not None and max_drop is None:
        raise UsageError("score= is there to hold a drop; give max_drop= as well")
    network = _network(model, data, input_shapes, fixed)
    given = inputs.checked_data(network, data)
    layers = layers_of(network.graph)
    reasons = _reasons(network, layers, tuple(keep_float))
    search = Search(network, layers, given, progress)
    methods = METHODS if ranges is None else (ranges,)
    choice = search.best({*reasons}, methods, exact=exact)
    errors = search.errors
    equal = _equalized(search, choice, given, {*reasons}, methods)
    if equal is not None:
        search, choice = equal
    smooth = _smoothed(search, choice, given, {*reasons}, methods)
    if smooth is not None:
        search, choice = smooth
    errors = search.errors or errors
    plan = search.plan(choice, {*reasons}, final=True)
    reasons |= plan.refused
    drop, alone = None, {}
    if max_drop is not None:
        measure = search.error if score is None else _scored(network, given, score)
        held = sensitivity.hold(search, plan, choice, measure, float(max_drop), {*reasons})
        plan, drop, alone = held.plan, held.drop, held.alone
        reasons |= dict.fromkeys(held.kept, f"sensitive: with it the drop is above {max_drop:g}")
    progress("measuring what was done to each layer")
    return result_of(
        search, plan, choice, reasons, errors, drop=drop, alone=alone, equalized=equal is not None
    )


def result_of(
    search: Search,
    plan: Plan,
    choice: Choice,
    reasons: Mapping[str, str],
    errors: Mapping[str, float],
    *,
    drop: float | None = None,
    alone: Mapping[str, float] = EMPTY,
    equalized: bool = False,
) -> Quantized:
    """Return the file of a plan, and what was done to each layer.

    Args:
        search: of the network.
        plan: that is written.
        choice: how it came about.
        reasons: by layer in float32, why.
        errors: by method, what it was compared with.
        drop, alone, equalized: as in `Quantized` and `Row`.
    """
    network = search.network
    local = search.differences(plan)
    content = writing.content(plans.qdq(plan), counted=network.counted, growing=network.growing)
    rows = tuple(
        Row(
            name,
            layer.node.op,
            "int8" if name in plan.placement.layers else "fp32",
            reasons.get(name, ""),
            local[name].error if name in local else None,
            alone.get(name),
        )
        for name, layer in search.layers.items()
    )
    return Quantized(
        content,
        rows,
        search.error(plan),
        drop,
        choice.method,
        choice.clipped,
        choice.corrected,
        equalized,
        smoothing.needed(network, plan.placement.layers),
        choice.exact,
        dict(errors),
        search.samples,
    )


def _network(
    model: Any,
    data: Any,
    input_shapes: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, Value],
) -> Float:
    if isinstance(model, (str, Path)):
        model = Path(model)
        destination.refuse_other(model)
    elif hasattr(model, "SerializeToString"):  # an onnx.ModelProto
        model = bytes(model.SerializeToString())
    if isinstance(model, (Path, bytes)):
        return networks.read(model, input_shapes=input_shapes, fixed=fixed)
    if isinstance(model, type) or not hasattr(model, "state_dict"):
        raise UsageError(
            f"the model is {shown(model)}; give an ONNX file, its content, or a torch module"
        )
    if fixed:
        raise UsageError(
            "fixed= is for an ONNX file, whose inputs have names; leave these arguments out of the "
            "module's forward, or give secateur.export_onnx's file"
        )
    from secateur.quantization import tracing
    from secateur.quantization.fake import trained_of

    if trained_of(model) is not None:
        raise UsageError(
            "the model is trained in 8 bit: QuantizedTraining.of(model).finish(data) gives its "
            "int8 network, and remove() makes it a float one again"
        )
    module = getattr(model, "_orig_mod", model)
    return tracing.read(module, inputs.tensors(data, 0, EXAMPLE), input_shapes=input_shapes)


def _reasons(
    network: Float, layers: Mapping[str, Layer], keep_float: tuple[str, ...]
) -> dict[str, str]:
    """Return why layers stay in float32, by layer.

    Raises:
        UsageError: a name is no layer's.
        CompileError: no layer is left.
    """
    for name in keep_float:
        if name not in layers:
            known = ", ".join(map(repr, layers)) or "none"
            raise UsageError(f"keep_float names {name!r}, but the layers are {known}")
    if not layers:
        raise CompileError(
            "the network has no layer that can be quantised: no convolution or linear layer with "
            "constant weights in float32; run it as it is"
        )
    found = {
        name: reason for name in layers if (reason := weights.refusal(network.graph, layers[name]))
    }
    found |= dict.fromkeys(keep_float, "asked for")
    if len(found) == len(layers):
        raise CompileError(
            "no layer is left to quantise: "
            + "; ".join(f"{name!r}: {reason}" for name, reason in list(found.items())[:3])
        )
    return found


def _equalized(
    search: Search, choice: Choice, data: running.Arrays, kept: set[str], methods: Sequence[str]
) -> tuple[Search, Choice] | None:
    """Return the search of an equalised network, if its error is smaller, and its choice.

    Where the error is far smaller, the choice is made anew: its ranges are others now.
    """
    found = equalizing.pairs(search.network.graph, search.layers)
    if not found:
        return None
    search.progress("trying equalised channels")
    network = equalizing.equalized(search.network, search.layers, found, search.first)
    other = Search(network, layers_of(network.graph), data, search.progress)
    before, after = (one.error(one.plan(choice, kept)) for one in (search, other))
    if after < ANEW * before:
        choice = other.best(kept, methods, exact=choice.exact)
    return (other, choice) if after < before else None


def _smoothed(
    search: Search, choice: Choice, data: running.Arrays, kept: set[str], methods: Sequence[str]
) -> tuple[Search, Choice] | None:
    """Return the search of a network whose float values are divided, if that is worth its time."""
    parts = search.network, search.layers, kept, search.first
    network = smoothing.smoothed(*parts, exact=choice.exact)
    if network is None:
        return None
    search.progress("trying divided channels")
    other = Search(network, layers_of(network.graph), data, search.progress)
    before, after = (one.error(one.plan(choice, kept)) for one in (search, other))
    if not after < WORTH * before:  # also where there is none to make smaller, or it is not finite
        return None
    return other, other.best(kept, methods, exact=choice.exact)


def _scored(network: Float, data: running.Arrays, score: Score) -> sensitivity.Drop:
    """Return a function that says by how much a plan's score is below the float network's."""

    def value(run: Callable[[running.Arrays], dict[str, np.ndarray]]) -> float:
        outputs = running.joined([run(part) for part in running.chunks(network, data)])
        found = score(next(iter(outputs.values())) if len(outputs) == 1 else outputs)
        try:
            number = float(found)
        except (TypeError, ValueError):
            number = np.nan
        if np.isnan(number):
            raise UsageError(f"score gave {shown(found)}, but must give a number")
        return number

    before = value(lambda part: running.run(network, part))

    def drop(plan: Plan) -> float:
        return before - value(plan.run)

    return drop
