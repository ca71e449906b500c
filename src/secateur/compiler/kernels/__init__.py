"""How operators are made fast: for each, where its values may lie and the C that computes it.

Adding a kernel is a file here: every module of this package that has a tuple `KERNELS` is found by
itself. What an operator means is said in `ops`; a kernel must match its reference.

A kernel writes loops over the *blocks* of its values (see `layout`), with an innermost loop over
the lanes. So the same C serves plain values (one lane), a batch with one image a lane, and one
sequence with its tokens over the lanes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.layout import PLAIN, Cut, Layout

C_TYPES: Mapping[str, str] = MappingProxyType({
    "float32": "float", "float64": "double", "bool": "uint8_t",
    "int8": "int8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
    "uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t", "uint64": "uint64_t",
})  # fmt: skip
"""dtype -> C; a bool is one byte, 0 or 1, as numpy has it."""

Types = Mapping[str, Tensor]
Carry = dict[int, int]


@dataclass(frozen=True)
class Machine:
    """What kernels need to know of the processor.

    Attributes:
        lanes: floats of a vector. registers: vector registers.
        matrix: whether `c/matrix.h` may use matrix instructions.
    """

    lanes: int
    registers: int
    matrix: bool = False


@dataclass(frozen=True)
class Place:
    """A value as a kernel's C sees it.

    Attributes:
        dtype: element type.
        layout: where its elements are.
        pointer: makes `ref`; a constant is stored in the artifact when it is first asked for.
        constant: the array, where the value is a constant.
    """

    dtype: np.dtype[Any]
    layout: Layout
    pointer: Callable[[], str]
    constant: np.ndarray | None = None

    @property
    def ref(self) -> str:
        """A C expression, a pointer to the first element (halo not counted)."""
        return self.pointer()

    @property
    def c(self) -> str:
        """The C type of an element."""
        return C_TYPES[self.dtype.name]

    def at(self, index: Sequence[str | int]) -> str:
        """Return the C expression of an element's offset from `ref`, in elements, at lane 0.

        Args:
            index: by axis, the position within the block (not the logical index, where the axis
                is cut). An axis of extent 1 may be indexed with anything that is "0".
        """
        terms = [
            f"(long)({i})*{stride}" if stride != 1 else f"({i})"
            for i, stride, n in zip(index, self.layout.strides, self.layout.blocks, strict=True)
            if str(i) != "0" and n > 1
        ]
        return " + ".join(terms) or "0"


@dataclass
class Weights:
    """The constants of an artifact, each stored once; kernels add to it and get C expressions.

    Attributes:
        add: stores an array's bytes, returns their offset.
        prepare: (key, bytes, C) -> offset in `f->prepared` of memory that the C fills once, when an
            engine is made, from `weights`; it is called `to` there. A key is served once.
    """

    add: Callable[[np.ndarray], int]
    prepare: Callable[[str, int, str], int]

    def pointer(self, array: np.ndarray) -> str:
        """Store an array (row-major) and return a C pointer expression of its element type."""
        return f"(const {C_TYPES[array.dtype.name]} *)(f->weights + {self.add(array)})"


@dataclass(frozen=True)
class Halo:
    """Rows around an input's blocks that a windowed kernel reads, by axis, and their padding."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: float = 0.0


@dataclass(frozen=True)
class Step:
    """What `emit` is given beside its node.

    Attributes:
        machine: the target's vectors.
        weights: where constants are stored.
        sparse: how many vectors of sums a tile of a layer may have that skips its zeros; 0: it does
            not skip them.
        fill: C that fills the halo of output 0 for channels `from`..`to`, or "" where it has none;
            a kernel that calls it itself sets `fills`.
        function: (kind, C from the arguments on) -> the name of a function that returns nothing;
            one serves all steps that ask for the same.
        scratch: C, the memory that the kernel asked for, `char *`; "" where it asked for none.
    """

    machine: Machine
    weights: Weights
    sparse: Callable[[Node], int]
    function: Callable[[str, str], str]
    fill: Callable[[str, str], str] = lambda _from, _to: ""
    scratch: str = ""


@dataclass(frozen=True)
class Kernel:
    """How operators are emitted.

    Attributes:
        ops: operators that it serves.
        emit: (node, input places, output places, step) -> C statements of the step's body. It has
            `f` (sec_frame), `t` and `T` (this thread, of how many) in scope.
        carry: (node, types) -> by input, {its axis: the output axis on which the same position
            lies}; an axis left out is worked along as a whole and may not be cut. None for an
            input that is read in any order and must be plain.
        cuts: (node, types, cuts of inputs, machine, batch) -> (wanted cuts of inputs, cuts of
            outputs); by default derived from `carry`. A wanted cut of None takes the input as it
            is. `batch`: whether the program has a sample in each lane.
        halo: (node, types, cuts of inputs, cuts of outputs) -> halo needed by each input, or None.
        view: (node, types, layout of input 0) -> layout of the output in the same memory, or None.
        order: (node, types, layouts of inputs, cut of output) -> axes from outermost to innermost.
        fills: its C fills the halo of its output by itself, through `step.fill`.
        scratch: (node, types, machine) -> bytes of memory to work in, of all threads together;
            `step.scratch` is where.
        tight: its outputs have gaps only between rows of their innermost axis, so that a reshape
            that merges other axes needs no copy.
        counts: it reads its first input where the caller left it, and of a tile that is not full
            (where the node is told `samples`) those samples that are there.
    """

    ops: tuple[str, ...]
    emit: Callable[[Node, Sequence[Place | None], Sequence[Place], Step], str]
    carry: Callable[[Node, Types], Sequence[Carry | None]] | None = None
    cuts: (
        Callable[
            [Node, Types, Sequence[Cut], Machine, bool],
            tuple[Sequence[Cut | None], Sequence[Cut]],
        ]
        | None
    ) = None
    halo: Callable[[Node, Types, Sequence[Cut], Sequence[Cut]], Sequence[Halo | None]] | None = None
    view: Callable[[Node, Types, Layout], Layout | None] | None = None
    order: Callable[[Node, Types, Sequence[Layout | None], Cut], Sequence[int] | None] | None = None
    fills: bool = False
    scratch: Callable[[Node, Types, Machine], int] | None = None
    tight: bool = False
    counts: bool = False

    def wanted(
        self, node: Node, types: Types, cuts: Sequence[Cut], machine: Machine, batch: bool
    ) -> tuple[Sequence[Cut | None], Sequence[Cut]]:
        """Return what `cuts` does, or what follows from `carry`."""
        if self.cuts:
            return self.cuts(node, types, cuts, machine, batch)
        assert self.carry is not None
        wanted, out = carried(node, types, cuts, self.carry(node, types))
        return wanted, [out] * len(node.outputs)


@cache
def kernels() -> Mapping[str, Kernel]:
    """Return the kernel of every operator that can be emitted, by operator name."""
    found: dict[str, Kernel] = {}
    for module in pkgutil.iter_modules(__path__):
        for kernel in getattr(importlib.import_module(f"{__name__}.{module.name}"), "KERNELS", ()):
            for op in kernel.ops:
                if op in found:
                    raise AssertionError(f"operator {op} has two kernels")
                found[op] = kernel
    return MappingProxyType(found)


def find(node: Node) -> Kernel:
    """Return the kernel of a node's operator.

    Raises:
        CompileError: there is none.
    """
    if node.op not in kernels():
        raise unsupported(node, f"operator {node.op} has no kernel")
    return kernels()[node.op]


def carried(
    node: Node, types: Types, cuts: Sequence[Cut], maps: Sequence[Carry | None]
) -> tuple[list[Cut | None], Cut]:
    """Derive which cuts a kernel wants from how positions of inputs and output correspond.

    The (first) output is cut as the largest input that can carry its cut; the others follow it.
    """
    out = types[next(filter(None, node.outputs))]
    chosen = PLAIN
    by_size = sorted(
        (i for i, name in enumerate(node.inputs) if name and maps[i] is not None and cuts[i].axes),
        key=lambda i: -types[node.inputs[i]].size,
    )
    for i in by_size:
        where = maps[i] or {}
        shape = types[node.inputs[i]].shape
        if cuts[i].within(set(where)) and all(
            shape[a] == out.shape[where[a]] for a, _, _ in cuts[i].axes
        ):
            chosen = cuts[i].moved(where)
            break
    lanes = chosen.as_dict()
    wanted: list[Cut | None] = []
    for name, where in zip(node.inputs, maps, strict=True):  # type: ignore[assignment]
        if not name or where is None:
            wanted.append(PLAIN)
            continue
        shape = types[name].shape
        wanted.append(
            Cut.of(
                {a: lanes[o] for a, o in where.items() if o in lanes and shape[a] == out.shape[o]}
            )
        )
    return wanted, chosen


class Body:
    """C statements being written, with nested loops.

    Loop variables are named by the caller. `loops` shares the outer loops among the threads.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def line(self, text: str) -> None:
        """Add one statement."""
        self.lines.append(text)

    def open(self, text: str) -> None:
        """Add a line that opens a brace."""
        self.lines.append(text + " {")
        self.depth += 1

    def close(self, levels: int = 1) -> None:
        """Close braces."""
        for _ in range(levels):
            self.lines.append("}")
            self.depth -= 1

    def loops(self, extents: Sequence[int], names: Sequence[str], *, shared: bool = True) -> int:
        """Open nested loops, outermost first; return how many braces were opened.

        Args:
            extents: iterations of each loop.
            names: of the loop variables.
            shared: split the outer loops among threads: as many of them as it takes to have a few
                dozen shares are run through as one.
        """
        opened, start = 0, 0
        if 0 in extents:  # nothing is there
            self.open("if (0)")
            for name in names:
                self.line(f"const long {name} = 0; (void){name};")
            return 1
        if shared:
            while start < len(extents) and prod(extents[:start]) < 32:
                start += 1
            total = prod(extents[:start])
            if total > 1:
                share = f"s{self.depth}"
                self.open(
                    f"for (long {share} = sec_share({total}, t, T); "
                    f"{share} < sec_share({total}, t + 1, T); {share}++)"
                )
                opened += 1
                rest = total
                for name, extent in zip(names[:start], extents[:start], strict=True):
                    rest //= extent
                    value = f"{share} / {rest} % {extent}" if extent > 1 else "0"
                    self.line(f"const long {name} = {value}; (void){name};")
            else:
                self.open("if (t == 0)")
                opened += 1
                for name in names[:start]:
                    self.line(f"const long {name} = 0; (void){name};")
        for name, extent in zip(names[start:], extents[start:], strict=True):
            self.open(f"for (long {name} = 0; {name} < {extent}; {name}++)")
            opened += 1
        return opened

    def lanes(self, lanes: int) -> None:
        """Open the loop over lanes `l`."""
        self.open(f"for (int l = 0; l < {lanes}; l++)")

    def text(self) -> str:
        """Return the statements."""
        assert self.depth == 0, "a brace is still open"
        return "\n".join(self.lines)


def lane(place: Place) -> str:
    """Return what is added to an offset in the loop over lanes: nothing for a plain value."""
    return " + l" if place.layout.lanes > 1 else ""
