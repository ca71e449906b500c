"""Operators of single elements as C expressions of `x0`, `x1`, ...

float32 is computed with the functions of `vector.h`, which compilers vectorise; float64 with those
of the C library; integers wrap around, and dividing one by zero gives zero: lanes without a sample
hold anything, and must not stop the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isinf, isnan
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.kernels import C_TYPES, Place

Expression = Callable[[Node, Sequence[Place | None], Place], str]
"""(node, inputs, output) -> C."""

ACTIVATIONS = {
    "": "SEC_NONE", "Relu": "SEC_RELU", "LeakyRelu": "SEC_LEAKY", "Clip": "SEC_CLIP",
    "Sigmoid": "SEC_SIGMOID", "HardSigmoid": "SEC_HARDSIGMOID", "HardSwish": "SEC_HARDSWISH",
    "Tanh": "SEC_TANH", "Gelu": "SEC_GELU", "GeluTanh": "SEC_GELUTANH", "Silu": "SEC_SILU",
    "Elu": "SEC_ELU", "Softplus": "SEC_SOFTPLUS",
}  # fmt: skip
"""Activations that a kernel can apply as it writes, as `vector.h` names them."""


def floating(x: float) -> str:
    """Return a float constant as exact C."""
    return literal(x, np.dtype(np.float32))


def literal(value: Any, dtype: np.dtype[Any]) -> str:
    """Return a number as exact C of the type of a dtype."""
    if dtype.kind == "f":
        if isnan(value):
            return "NAN"
        if isinf(value):
            return "INFINITY" if value > 0 else "-INFINITY"
        return float(value).hex() + ("f" if dtype == np.float32 else "")
    if dtype == np.int64:
        return f"(int64_t){int(value) % 2**64}ull"
    suffix = "ull" if dtype == np.uint64 else "u" if dtype == np.uint32 else ""
    if int(value) == -(2**31):
        return "(-2147483647 - 1)"
    return f"(({C_TYPES[dtype.name]}){int(value)}{suffix})"


def activation(node: Node) -> str:
    """Return the three arguments (activation, alpha, beta) of `sec_act` and its kin."""
    name = ACTIVATIONS[node.get("activation", "")]
    return f"{name}, {floating(node.get('alpha', 0.0))}, {floating(node.get('beta', 0.0))}"


def wrapped(dtype: np.dtype[Any], text: str) -> str:
    """Return arithmetic on integers that wraps around.

    Args:
        dtype: of the operands and the result.
        text: C in which `{}` stands before each operand, for a cast to an unsigned type.
    """
    if dtype.kind == "f":
        return text.replace("{}", "")
    wide = "uint64_t" if dtype.itemsize == 8 else "uint32_t"
    return f"({C_TYPES[dtype.name]})({text.replace('{}', f'({wide})')})"


def _first(inputs: Sequence[Place | None]) -> Place:
    assert inputs[0] is not None
    return inputs[0]


def _same(text: str) -> Expression:
    return lambda _node, _inputs, _out: text


def _wrapping(text: str) -> Expression:
    return lambda _node, _inputs, out: wrapped(out.dtype, text)


_SUFFIXED = (
    *("fabs", "sqrt", "ceil", "floor", "rint", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "asinh", "acosh", "atanh"),
)
_OURS = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "mish")


def _formula(text: str, **defaults: float) -> Expression:
    """Return an expression of floating-point numbers.

    Args:
        text: C of doubles; functions that have one for floats are exchanged where the output is
            float32, and so are literals, which all have a point. `<name>` is an attribute.
        defaults: of the attributes.
    """

    def write(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
        single, found = out.dtype == np.float32, text
        if single:
            found = re.sub(r"\b\d+\.\d+\b", lambda m: f"{m[0]}f", found)
            found = re.sub(rf"\b({'|'.join(_SUFFIXED)})\(", r"\1f(", found)
            found = re.sub(rf"\b({'|'.join(_OURS)})\(", r"sec_\1(", found)
        found = re.sub(r"\b(sigmoid|mish)\(", r"sec_\g<1>64(", found)
        for name, default in defaults.items():
            found = found.replace(f"<{name}>", literal(node.get(name, default), out.dtype))
        return found

    return write


def _unsigned(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "ub"


def _absolute(_node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    if out.dtype.kind == "f":
        return "fabsf(x0)" if out.dtype == np.float32 else "fabs(x0)"
    return "x0" if _unsigned(out.dtype) else f"x0 < 0 ? {wrapped(out.dtype, '-{}x0')} : x0"


def _sign(_node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    if _unsigned(out.dtype):
        return "x0 > 0"
    text = f"({out.c})((x0 > 0) - (x0 < 0))"
    return f"x0 != x0 ? x0 : {text}" if out.dtype.kind == "f" else text


_NO_ZERO = "(x1 == 0 ? 1 : x1)"
"""A divisor that is not looked at where it is 0; compilers warn of a constant that is."""


def _divide(_node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    if out.dtype.kind == "f":
        return "x0 / x1"
    if _unsigned(out.dtype):
        return f"x1 == 0 ? 0 : x0 / {_NO_ZERO}"
    negated = wrapped(out.dtype, "-{}x0")  # the least number has no opposite, and traps
    return f"x1 == 0 ? 0 : x1 == -1 ? {negated} : x0 / {_NO_ZERO}"


def _modulo(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    truncated = bool(node.get("fmod", 0))
    if out.dtype.kind == "f":
        rest = "fmodf(x0, x1)" if out.dtype == np.float32 else "fmod(x0, x1)"
        if truncated:
            return rest
        return f"{rest} != 0 && ({rest} < 0) != (x1 < 0) ? {rest} + x1 : {rest}"
    if _unsigned(out.dtype):
        return f"x1 == 0 ? 0 : x0 % {_NO_ZERO}"
    rest = f"x0 % {_NO_ZERO}"
    if not truncated:
        rest = f"({rest} + (({rest} != 0) & ((x0 ^ x1) < 0)) * x1)"
    return f"x1 == 0 || x1 == -1 ? 0 : {rest}"


def _shift(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    bits = 8 * out.dtype.itemsize
    wide = "uint64_t" if out.dtype.itemsize == 8 else "uint32_t"
    within = f"({wide})x1 < {bits}"  # a shift below 0 is a large one
    if node.get("direction") == "LEFT":
        return f"{within} ? ({out.c})(({wide})x0 << x1) : 0"
    beyond = f"x0 >> {bits - 1}" if out.dtype.kind == "i" else "0"
    return f"{within} ? x0 >> x1 : {beyond}"


def _power(_node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    exponent = inputs[1]
    assert exponent is not None
    if out.dtype.kind == "i":
        if exponent.dtype.kind == "f":
            power = "const double power = pow((double)x0, (double)x1);"
            return f"({{ {power} {_whole('power', out.dtype)}; }})"
        return f"({out.c})sec_power(x0, (int64_t)x1)"
    if exponent.constant is not None and exponent.constant.size == 1:
        root = f"(x0 == -INFINITY ? INFINITY : {_call('sqrt', 'x0 + 0', out)})"  # as pow has it
        known = {
            2.0: "x0 * x0", 3.0: "x0 * x0 * x0", 4.0: "(x0 * x0) * (x0 * x0)", 1.0: "x0",
            0.0: "1", -1.0: "1 / x0", 0.5: root, -0.5: f"1 / {root}",
        }  # fmt: skip
        if (number := float(exponent.constant.reshape(-1)[0])) in known:
            return known[number]
    if out.dtype == exponent.dtype == np.float32:
        return "powf(x0, x1)"
    return f"({out.c})pow((double)x0, (double)x1)"


def _call(name: str, argument: str, out: Place) -> str:
    return f"{name}{'f' if out.dtype == np.float32 else ''}({argument})"


def _cast(_node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    source = _first(inputs).dtype
    if out.dtype.kind == "b":
        return "x0 != 0"
    if source.kind == "f" and out.dtype.kind in "iu":
        return _whole("x0", out.dtype)
    return f"({out.c})x0"


def _whole(text: str, dtype: np.dtype[Any]) -> str:
    """Return C of a floating-point variable as a whole number, of any value, as numpy on x86."""
    if dtype == np.uint64:
        return f"SEC_UINT64({text})"
    # an unsigned type by way of a signed one that is wider: negative numbers wrap around
    by = "SEC_INT64" if dtype.itemsize == 8 or dtype == np.uint32 else "SEC_INT32"
    return f"({C_TYPES[dtype.name]}){by}({text})"


def _clip(_node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    least, most = (*inputs[1:], None, None)[:2]
    text = "x0" if least is None else "(x0 < x1 ? x1 : x0)"
    return text if most is None else f"({text} > x2 ? x2 : {text})"


def _variadic(_node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    text = "x0"
    for k in range(1, len(inputs)):
        text = f"{text} + x{k}"
    return text


def _mean(node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    return f"({_variadic(node, inputs, out)}) / {literal(len(inputs), out.dtype)}"


def _extreme(sign: str) -> Expression:
    def write(_node: Node, inputs: Sequence[Place | None], _out: Place) -> str:
        text = "x0"
        for k in range(1, len(inputs)):
            text = f"SEC_OF_TWO({text}, x{k}, {sign}, a{k}, b{k})"
        return text

    return write


def _infinite(node: Node, _inputs: Sequence[Place | None], _out: Place) -> str:
    found = [
        text
        for name, text in (("positive", "x0 == INFINITY"), ("negative", "x0 == -INFINITY"))
        if node.get(f"detect_{name}", 1)
    ]
    return " || ".join(found) or "0"


def _activation(node: Node, inputs: Sequence[Place | None], out: Place) -> str:
    if out.dtype != np.float32:
        raise unsupported(node, f"an activation of {out.dtype}; float32 is supported")
    return f"sec_act1(x0, {activation(node)})"


def _gelu(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    tanh = node.get("approximate", "none") == "tanh"
    if out.dtype == np.float32:
        return f"sec_act1(x0, {'SEC_GELUTANH' if tanh else 'SEC_GELU'}, 0, 0)"
    if tanh:
        inner = "1.5957691216057308 * (x0 + 0.044715 * x0 * x0 * x0)"
        return f"x0 * sec_sigmoid64({inner})"
    return "0.5 * x0 * erfc(x0 * -0.70710678118654752)"


def _prelu(_node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    if _unsigned(out.dtype):
        return "x0"
    return f"x0 < 0 ? {wrapped(out.dtype, '{}x0 * {}x1')} : x0"


EXPRESSIONS: Mapping[str, Expression] = MappingProxyType({
    "Abs": _absolute,
    "Acos": _formula("acos(x0)"),
    "Acosh": _formula("acosh(x0)"),
    "Activation": _activation,
    "Add": _wrapping("{}x0 + {}x1"),
    "And": _same("x0 & x1"),
    "Asin": _formula("asin(x0)"),
    "Asinh": _formula("asinh(x0)"),
    "Atan": _formula("atan(x0)"),
    "Atanh": _formula("atanh(x0)"),
    "BitShift": _shift,
    "BitwiseAnd": _same("x0 & x1"),
    "BitwiseNot": _wrapping("~{}x0"),
    "BitwiseOr": _same("x0 | x1"),
    "BitwiseXor": _same("x0 ^ x1"),
    "Cast": _cast,
    "Ceil": _formula("ceil(x0)"),
    "Celu": _formula("x0 > 0 ? x0 : <alpha> * expm1(x0 / <alpha>)", alpha=1.0),
    "Clip": _clip,
    "Cos": _formula("cos(x0)"),
    "Cosh": _formula("cosh(x0)"),
    "Div": _divide,
    "Elu": _formula("x0 > 0 ? x0 : <alpha> * expm1(x0)", alpha=1.0),
    "Equal": _same("x0 == x1"),
    "Erf": _formula("erf(x0)"),
    "Exp": _formula("exp(x0)"),
    "Floor": _formula("floor(x0)"),
    "Gelu": _gelu,
    "Greater": _same("x0 > x1"),
    "GreaterOrEqual": _same("x0 >= x1"),
    "HardSigmoid": _formula("SEC_WITHIN(<alpha> * x0 + <beta>)", alpha=0.2, beta=0.5),
    "HardSwish": _formula("x0 * SEC_WITHIN(x0 / 6.0 + 0.5)"),
    "Identity": _same("x0"),
    "IsInf": _infinite,
    "IsNaN": _same("x0 != x0"),
    "LeakyRelu": _formula("x0 < 0 ? <alpha> * x0 : x0", alpha=0.01),
    "Less": _same("x0 < x1"),
    "LessOrEqual": _same("x0 <= x1"),
    "Log": _formula("log(x0)"),
    "Max": _extreme(">"),
    "Mean": _mean,
    "Min": _extreme("<"),
    "Mish": _formula("mish(x0)"),
    "Mod": _modulo,
    "Mul": _wrapping("{}x0 * {}x1"),
    "Neg": _wrapping("-{}x0"),
    "Not": _same("!x0"),
    "Or": _same("x0 | x1"),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _formula("1.0 / x0"),
    "Relu": _same("x0 < 0 ? 0 : x0"),
    "Round": _formula("rint(x0)"),
    "Selu": _formula(
        "<gamma> * (x0 > 0 ? x0 : <alpha> * expm1(x0))",
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    ),
    "Sigmoid": _formula("sigmoid(x0)"),
    "Sign": _sign,
    "Sin": _formula("sin(x0)"),
    "Sinh": _formula("sinh(x0)"),
    "Softplus": _formula("(x0 > 0 ? x0 : 0) + log1p(exp(-fabs(x0)))"),
    "Softsign": _formula("x0 / (1.0 + fabs(x0))"),
    "Sqrt": _formula("sqrt(x0)"),
    "Sub": _wrapping("{}x0 - {}x1"),
    "Sum": _variadic,
    "Swish": _formula("x0 * sigmoid(<alpha> * x0)", alpha=1.0),
    "Tan": _formula("tan(x0)"),
    "Tanh": _formula("tanh(x0)"),
    "ThresholdedRelu": _formula("x0 > <alpha> ? x0 : 0", alpha=1.0),
    "Where": _same("x0 ? x1 : x2"),
    "Xor": _same("x0 ^ x1"),
})  # fmt: skip
"""How each operator computes one element."""

HEAVY = frozenset({
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp",
    "Gelu", "Log", "Mish", "Pow", "Selu", "Sigmoid", "Sin", "Sinh", "Softplus", "Swish", "Tan",
    "Tanh",
})  # fmt: skip
"""Those that take some dozen instructions and more."""
