"""From programs to C: one function for each step, tables of them, and the constants as one blob.

Nothing that the model's file calls by a name stands in the C: identifiers and comments are ours.
The names are in the JSON that describes the network, which the C holds as an array of numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from secateur.compiler import choice
from secateur.compiler.graph import Graph, Node
from secateur.compiler.kernels import C_TYPES, Machine, Place, Step, Weights
from secateur.compiler.kernels.contracted import macs
from secateur.compiler.kernels.expressions import ACTIVATIONS
from secateur.compiler.kernels.fill import filler
from secateur.compiler.layout import LINE, Layout
from secateur.compiler.plan import Planned, Program

UNIT = 1000
"""What a tile of the first program is said to cost, beside those of the others."""


@dataclass
class _Blob:
    """Constants, each distinct one stored once, at multiples of a cache line."""

    parts: list[bytes] = field(default_factory=list)
    floats: list[bool] = field(default_factory=list)
    size: int = 0
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array)
        content = data.tobytes()
        key = hashlib.sha256(data.dtype.str.encode() + content).digest()
        if key not in self.known:
            self.known[key] = self.size
            self.parts.append(content + bytes(-len(content) % LINE))
            self.floats.append(data.dtype == np.float32)
            self.size += len(self.parts[-1])
        return self.known[key]


@dataclass
class _Prepared:
    """Memory that is filled once when an engine is made."""

    code: list[str] = field(default_factory=list)
    size: int = 0
    known: dict[str, int] = field(default_factory=dict)

    def add(self, key: str, size: int, code: str) -> int:
        if key not in self.known:
            self.known[key] = self.size
            self.code.append(f"{{ char *to = prepared + {self.size}; {code} }}")
            self.size += -(-size // LINE) * LINE
        return self.known[key]


@dataclass(frozen=True)
class Source:
    """What is compiled.

    Attributes:
        model: text of model.c.
        stored: constants as they lie in the file.
        network: what the artifact says of itself; `steps`, by program, has {name, op, layer,
            macs, nonzeros, sparse_macs, kernel} of each step, for tables.
    """

    model: str
    stored: bytes
    network: dict[str, Any]


def emit(
    graph: Graph,
    programs: Sequence[Program],
    machine: Machine,
    *,
    sparse: Mapping[str, int],
    loads: Sequence[choice.Load],
    info: Mapping[str, Any],
    values: str = "fp32",
    fixed: int = 0,
) -> Source:
    """Write model.c.

    Args:
        graph: for its inputs and outputs; its shapes do not matter.
        programs: ascending by batch.
        machine: the target.
        sparse: by node name, see `Step.sparse`.
        loads: by program, what a tile of it costs.
        info: goes into the artifact as JSON, `steps` added, and into the C without them.
        values: how float constants are stored: "fp32", "fp16", "bf16".
        fixed: samples of every call, where callers cannot choose; 0 where they can.
    """
    blob, prepared = _Blob(), _Prepared()
    functions = _Functions()
    step = Step(
        machine,
        Weights(blob.add, prepared.add),
        lambda node: sparse.get(node.name, 0),
        functions.function,
    )
    tables: list[str] = []
    described = []
    for p, program in enumerate(programs):
        names, titles = [], []
        for k, planned in enumerate(program.steps):
            name = f"p{p}_step{k}"
            title = f"{k} {planned.node.op}"  # an operator that has a kernel, so one of ours
            functions.add(name, title, _body(planned, program, step, blob))
            titles.append(f'"{title}"')
            names.append(name)
        tables.append(f"static const sec_step p{p}_steps[] = {{{', '.join(names)}}};")
        tables.append(f"static const char *const p{p}_names[] = {{{', '.join(titles)}}};")
        described.append(
            [
                _describe(s.node, program, sparse, program.batch if k < program.looped else 1)
                for k, s in enumerate(program.steps)
            ]
        )
    rows = ",\n  ".join(
        f"{{{p.batch}, {p.arena}, {p.staged}, {len(p.steps)}, {p.looped}, "
        f"{max(1, round(UNIT * load.cycles / loads[0].cycles))}, {load.alone:d}, p{i}_steps, "
        f"p{i}_names}}"
        for i, (p, load) in enumerate(zip(programs, loads, strict=True))
    )
    first = programs[0]
    model = "\n".join(
        [
            f"#define LANES {machine.lanes}",
            f"#define SEC_ACTS ({functions.activations()})",
            '#include "vector.h"',
            '#include "halo.h"',
            '#include "transpose.h"',
            '#include "contract.h"',
            '#include "quads.h"',
            '#include "quad_depthwise.h"',
            '#include "quad_sparse.h"',
            '#include "matrix.h"',
            '#include "depthwise.h"',
            '#include "single.h"',
            '#include "blocked.h"',
            '#include "quad_blocked.h"',
            '#include "matmul.h"',
            '#include "pooling.h"',
            '#include "quad_pooling.h"',
            '#include "recurrent.h"',
            '#include "fold.h"',
            '#include "gather.h"',
            '#include "boxes.h"',
            "extern const unsigned char sec_stored[];",
            *functions.code,
            *tables,
            f"static const sec_program programs[] = {{\n  {rows}}};",
            _sizes("input_bytes", graph.inputs, first, fixed),
            _sizes("output_bytes", graph.outputs, first, fixed),
            _ranges(info),
        ]
    )
    stored, sections, decoded = _store(blob, values)
    network = {**info, "steps": described}
    text = json.dumps(dict(info), separators=(",", ":"))
    body = "\n  ".join(prepared.code)
    model += f"""
static __attribute__((unused)) void prepare(const char *weights, char *prepared) {{
  sec_frame frame = {{0, weights, prepared, 0, 0, 0, 0, 0}};
  const sec_frame *f = &frame;
  (void)f;
  {body}
}}
{_c_chars("info", text)}
static const sec_section sections[] = {{{sections or "{0, 0, 0, 0}"}}};
const sec_model sec_the_model = {{
  info, {len(graph.inputs)}, {len(graph.outputs)}, input_bytes, output_bytes,
  programs, {len(programs)}, {fixed if first.batched else first.batch},
  sec_stored, {len(stored)}, {decoded}, sections, {sections.count("{") if sections else 0},
  {prepared.size}, {"prepare" if prepared.size else "0"},
  ranges, sizeof ranges / sizeof *ranges - 1}};
"""
    return Source(model, stored, network)


_ACTIVATION = re.compile(rf"\b({'|'.join(ACTIVATIONS.values())})\b")
_ADDRESS = re.compile(r"(f->(?:weights|prepared|arena)) \+ (\d+)")


@dataclass
class _Functions:
    """The C functions of steps. Steps that differ only in where their data lie share one."""

    code: list[str] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)

    def function(self, kind: str, text: str) -> str:
        """Return the name of a function, written where there is none that does the same."""
        if text not in self.shared:
            self.shared[text] = f"{kind}{len(self.shared)}"
            self.code.append(f"SHARED void {self.shared[text]}{text}")
        return self.shared[text]

    def activations(self) -> str:
        """Return C, a bit for every activation that is there."""
        names = {name for code in self.code for name in _ACTIVATION.findall(code)}
        return " | ".join(f"1u << {name}" for name in sorted(names)) or "0"

    def add(self, name: str, title: str, body: str) -> None:
        addresses = [m[2] for m in _ADDRESS.finditer(body)]
        places = iter(range(len(addresses)))
        general = _ADDRESS.sub(lambda m: f"{m[1]} + at[{next(places)}]", body)
        if general not in self.shared:
            self.shared[general] = f"does{len(self.shared)}"
            lines = "\n  ".join(general.splitlines())
            self.code.append(
                f"SHARED void {self.shared[general]}(const sec_frame *f, int t, int T, "
                f"const size_t *at) {{\n  (void)f; (void)t; (void)T; (void)at;\n  {lines}\n}}"
            )
        self.code.append(
            f"/* {title} */\n"
            f"static void {name}(const sec_frame *f, int t, int T) {{\n"
            f"  static const size_t at[] = {{{', '.join(addresses) or '0'}}};\n"
            f"  {self.shared[general]}(f, t, T, at);\n}}"
        )


def _body(planned: Planned, program: Program, step: Step, blob: _Blob) -> str:
    node = planned.node
    inputs = [
        _place(value, program, blob, planned.constants.get(i)) if value else None
        for i, value in enumerate(node.inputs)
    ]
    outputs = [_place(v, program, blob) for v in node.outputs if v]
    if planned.kernel.fills:
        halo = program.halos.get(node.outputs[0])
        step = replace(step, fill=filler(step, outputs[0], halo))
    if planned.scratch:
        place = _place(planned.scratch, program, blob)
        step = replace(step, scratch=f"((char *){place.ref})")
    return planned.kernel.emit(node, inputs, outputs, step)


def _place(value: str, program: Program, blob: _Blob, constant: Layout | None = None) -> Place:
    tensor = program.types[value]
    kind = C_TYPES[tensor.dtype.name]
    if constant is not None:
        array = tensor.value  # of this program's graph: sizes may depend on the batch
        assert array is not None
        return Place(
            tensor.dtype,
            constant,
            lambda: f"((const {kind} *)(f->weights + {blob.add(_packed(array, constant))}))",
            array,
        )
    home, layout = program.homes[value], program.layouts[value]
    root = program.layouts[home.root]
    if home.kind == "arena":
        ref = f"({kind} *)(f->arena + {home.offset}) + {root.offset}"
    elif home.kind == "staged":
        ref = f"({kind} *)(f->arena + {home.offset} + f->sample * {home.sample}) + {root.offset}"
    else:
        source = "inputs" if home.kind == "input" else "outputs"
        qualifier = "const " if home.kind == "input" else ""
        whole = program.types[home.root]  # what a view shows may begin with another dimension
        sample = whole.size // whole.shape[0] if program.batched else whole.size
        first = f" + (f->first + f->sample) * {sample}" if program.batched else ""
        ref = f"({qualifier}{kind} *)f->{source}[{home.index}]{first}"
    return Place(tensor.dtype, layout, lambda: f"({ref})")


def _packed(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the buffer of a constant in a layout, one-dimensional."""
    buffer = np.zeros(layout.elements, array.dtype)
    buffer[layout.positions().ravel()] = array.ravel()
    return buffer


def _label(node: Node) -> str:
    return f"{node.op} {node.name}"


_KERNELS = (("dense", "sparse"), ("int8", "int8 sparse"))
"""By whether a layer is in integers, and whether it skips zeros."""


def _describe(
    node: Node, program: Program, sparse: Mapping[str, int], times: int
) -> dict[str, Any]:
    """Return what tables say of a step that runs so many times for a tile."""
    entry: dict[str, Any] = {"name": _label(node), "op": node.op, "layer": node.name}
    if node.op in (*choice.LAYERS, *choice.INTEGER):
        weight = program.types[node.inputs[1]].value
        assert weight is not None
        dense = times * macs(node, program.types)
        share = np.count_nonzero(weight) / max(1, weight.size)
        entry |= {
            "macs": dense,
            "nonzeros": int(np.count_nonzero(weight)),
            "sparse_macs": round(dense * share),
            "kernel": _KERNELS[node.op in choice.INTEGER][sparse.get(node.name, 0) > 0],
        }
    return entry


def _sizes(name: str, values: Sequence[str], program: Program, fixed: int) -> str:
    sizes = []
    for value in values:
        tensor = program.types[value]
        samples = tensor.shape[0] if program.batched else 1
        sizes.append(max(1, fixed) * tensor.size * tensor.dtype.itemsize // samples)
    return f"static const size_t {name}[] = {{{', '.join(map(str, sizes))}}};"


def _ranges(info: Mapping[str, Any]) -> str:
    """Return a table of what inputs of indices may be, ended by a row that does not count."""
    rows = []
    for number, port in enumerate(info["inputs"]):
        if "indices" in port:
            low, high = port["indices"]
            rows.append(f"{{{number}, {np.dtype(port['dtype']).itemsize}, {low}LL, {high}LL}}")
    return f"static const sec_range ranges[] = {{{', '.join([*rows, '{0, 1, 0, 0}'])}}};"


def _store(blob: _Blob, values: str) -> tuple[bytes, str, int]:
    """Return the stored bytes, the C of the sections that decode them, and the decoded size."""
    if values == "fp32":
        return b"".join(blob.parts) or bytes(LINE), "", 0
    stored, sections, size, at = [], [], 0, 0
    for part, floats in zip(blob.parts, blob.floats, strict=True):
        if floats:
            x = np.frombuffer(part, np.float32)
            narrow = x.astype(np.float16) if values == "fp16" else _bf16(x)
            data, kind, count = narrow.tobytes(), 1 if values == "fp16" else 2, len(x)
        else:
            data, kind, count = part, 0, len(part)
        sections.append(f"{{{size}, {at}, {count}, {kind}}}")
        stored.append(data + bytes(-len(data) % LINE))
        size += len(stored[-1])
        at += len(part)
    return b"".join(stored) or bytes(LINE), ",\n  ".join(sections), at


def _bf16(x: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def _c_chars(name: str, text: str) -> str:
    """Return ASCII text as an array of numbers, which no text can end or turn into something else.

    A literal could be misread: trigraphs, escapes that are not C's, more bytes than it may hold.
    """
    codes = [*text.encode("ascii"), 0]
    lines = ",\n  ".join(",".join(map(str, codes[i : i + 24])) for i in range(0, len(codes), 24))
    return f"static const char {name}[] = {{\n  {lines}}};"
