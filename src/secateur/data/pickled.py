"""The dict of arrays, lists and texts in a pickle, read without unpickling it.

A pickle is a program. This follows only the instructions that a pickled batch of CIFAR-10 has,
calls nothing, keeps nothing but what stands in the file, and stops at the first instruction that
a batch does not need. So it takes time and memory in proportion to the file, whatever that says.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Array:
    """A pickled numpy array, or its dtype: the state that it was given, and nothing done to it."""

    kind: str | bytes | None = None
    """Of a dtype: its name, such as u1."""
    state: Any = None


@dataclass(frozen=True, slots=True)
class _Name:
    """What a pickle calls: one of the four names that it may."""

    name: str


_NAMES = {
    "numpy.core.multiarray _reconstruct": _Name("array"),
    "numpy._core.multiarray _reconstruct": _Name("array"),
    "numpy ndarray": _Name("ndarray"),
    "numpy dtype": _Name("dtype"),
    "_codecs encode": _Name("encode"),
}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1"}
_VALUES |= {"BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_OLD_TEXTS = {"BINSTRING", "SHORT_BINSTRING"}  # Python 2's, which are bytes
_PUT = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"BINGET", "LONG_BINGET"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME"}


def unpickled(content: bytes, most: int) -> Any:
    """Return what a pickle of protocol 2 to 4 holds.

    Args:
        content: of the whole file.
        most: instructions that it may have.

    Raises:
        ValueError: it is damaged, has too many instructions, or one that a batch has not.
    """
    try:
        return _Reader(len(content)).run(content, most)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} at an instruction") from error


class _Reader:
    def __init__(self, size: int) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = size  # bytes that texts may come to when they are encoded

    def run(self, content: bytes, most: int) -> Any:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count >= most:
                raise ValueError(f"it has more than {most:,} instructions")
            if operation.name == "STOP":
                return self._stack.pop()
            self._step(operation.name, argument)
        raise ValueError("it ends in the middle")

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _OLD_TEXTS:
            self._stack.append(argument.encode("latin1"))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _PUT:
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in _GET:
            self._stack.append(self._memo[argument])
        elif name in _TUPLES:
            self._stack.append(tuple(self._taken(_TUPLES[name])))
        elif name not in _NOTHING:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "APPEND" | "APPENDS":
                items = self._marked() if name == "APPENDS" else self._taken(1)
                _of(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._marked() if name == "SETITEMS" else self._taken(2)
                _of(stack[-1], dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_named(argument))
            case "STACK_GLOBAL":
                stack.append(_named(" ".join(self._taken(2))))
            case "REDUCE":
                function, arguments = self._taken(2)
                stack.append(self._called(_of(function, _Name), _of(arguments, tuple)))
            case "BUILD":
                state = stack.pop()
                _of(stack[-1], Array).state = state
            case _:
                raise ValueError(f"it has the instruction {name}")

    def _called(self, function: _Name, arguments: tuple[Any, ...]) -> Array | bytes:
        if function.name == "array":
            return Array()
        if function.name == "dtype":
            kind = arguments[0]
            return Array(kind if isinstance(kind, str | bytes) else None)
        text, encoding = arguments
        if function.name != "encode" or encoding not in ("latin1", b"latin1"):
            raise ValueError("it calls what a batch does not")
        self._left -= len(_of(text, str))  # one text, named again and again, must not add up
        if self._left < 0:
            raise ValueError("it has a text encoded again and again")
        encoded: bytes = text.encode("latin1")
        return encoded

    def _taken(self, count: int) -> list[Any]:
        if count > len(self._stack) - (self._marks[-1] if self._marks else 0):
            raise ValueError("it takes what it has not put")
        taken = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


def _named(asked: str) -> _Name:
    if asked not in _NAMES:
        raise ValueError(f"it asks for {asked[:80]!a}")
    return _NAMES[asked]


def _of(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} must")
    return value


def _key(value: object) -> str | bytes:
    if not isinstance(value, str | bytes):  # hashing a tuple of tuples could take for ever
        raise ValueError(f"a {type(value).__name__} is the name of something")
    return value
