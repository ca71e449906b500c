"""What a layer does at a tile: C functions that layers share.

A kernel is inlined for the sums of its tile to stay in registers, and a compiler takes long over
each copy. So there is one for each kind of tile: its size, strides of a few vectors, activation.
Weights, channels and the positions of a dense layer are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.compiler.kernels import Body, Step
from secateur.compiler.kernels.contracted import Axis


@dataclass(frozen=True)
class Levels:
    """What becomes of sums of integers, as far as a function must know.

    Attributes:
        quads, narrow: of `sec_levels`. more: whether something is added to numbers.
    """

    quads: bool
    narrow: bool
    more: bool

    def declared(self, of: str) -> str:
        """Return C that declares `levels`, from those of a layer."""
        more = f"{of}->more" if self.more else "0"
        return (
            f"const struct sec_levels levels = {{{of}->factor, {self.quads:d}, {self.narrow:d}, "
            f"{of}->res_zero, {of}->res_factor, {of}->low, {of}->high, {of}->zero, {more}}};"
        )


@dataclass(frozen=True)
class Spots:
    """The functions of one layer.

    Attributes:
        axes: rows and columns of vectors. tile: how many are worked on at once.
        act: C, the activation and its two numbers.
        residual: whether there is one.
        levels: of integers; None where values are floats.
    """

    axes: tuple[Axis, Axis]
    tile: tuple[int, int]
    act: str
    residual: bool
    levels: Levels | None

    def dense(
        self, body: Body, step: Step, outputs: int, *, groups: bool, taps: Sequence[int]
    ) -> None:
        """Write the functions of a dense layer, and to `body` that they are `spots`.

        Args:
            body, step: that are being written.
            outputs: of a tile.
            groups: whether there are several.
            taps: offsets of the window.
        """
        kind = "quad" if self.levels else "dense"
        one = len(taps) == 1 and taps[0] == 0

        def text(high: int, wide: int) -> str:
            levels = self.levels.declared("w->levels") if self.levels else ""
            return (
                "(const sec_dense *w, const sec_shape *g, const float *in, float *out, "
                "const float *res, const sec_part *part) {\n"
                f"  {levels}\n"
                f"  {self._shape(high, wide)}\n"
                "  static const int32_t here[] = {0};\n"
                f"  const sec_dense v = {{w->outputs, {'w->groups' if groups else '1'}, "
                f"w->channels, {len(taps)}, w->channels_a_block, w->in_channel, w->weights, "
                f"w->bias, {'here' if one else 'w->offset'}, {'&levels' if levels else '0'}}};\n"
                f"  (void)here; (void)res;\n"
                f"  sec_{kind}_tiles(&v, &s, in, out, {self._res}, part, "
                f"{outputs}, {high}, {wide});\n"
                "}"
            )

        body.line(f"static sec_dense_spot *const spots[] = {self._each(step, text)};")

    def sparse(
        self,
        body: Body,
        step: Step,
        *,
        counts: Sequence[int],
        channels: tuple[int, int],
        unit: int,
        even: bool,
        outputs: int,
    ) -> None:
        """Write the functions of a sparse layer, and to `body` that they are `spots`.

        Its numbers are constants in them, unlike those of a dense one: there are few products to
        hide behind, and with arguments int8 layers took 5 % longer.

        Args:
            body, step: that are being written.
            counts: of `sec_sparse`, from `blocks` to `table`.
            channels: strides of the output's channels and of the residual's.
            unit, even, outputs: of `sec_sparse`.
        """
        strides = f"{channels[0]}, {channels[1]}"

        def text(high: int, wide: int) -> str:
            levels = self.levels.declared("q") if self.levels else ""
            call = "sec_quad_sparse_tile(&v, &levels" if levels else "sec_sparse_tiles(&v"
            return (
                "(const sec_sparse *w, const struct sec_levels *q, const float *in, float *out, "
                "const float *res, int c0, int c1) {\n"
                f"  {levels}\n"
                f"  {self._shape(high, wide, strides)}\n"
                f"  const sec_sparse v = {{{', '.join(map(str, counts))}, "
                "w->start, w->rows, w->codes, w->values, w->bias, w->offset, w->places, "
                f"{unit}, {even:d}, {outputs}}};\n"
                "  (void)q; (void)res;\n"
                f"  {call}, &s, in, out, {self._res}, c0, c1, {high}, {wide});\n"
                "}"
            )

        body.line(f"static sec_sparse_spot *const spots[] = {self._each(step, text)};")

    @property
    def _res(self) -> str:
        return "res" if self.residual else "0"

    def _each(self, step: Step, text: Callable[[int, int], str]) -> str:
        """Return C, the names of the functions in braces; 0 where there is no such tile."""
        (high, wide), (rows, columns) = self.tile, (a.count for a in self.axes)
        names = [
            step.function("spot", text(h, w)) if h and w else "0"
            for h in (high, rows % high)
            for w in (wide, columns % wide)
        ]
        return f"{{{', '.join(names)}}}"

    def _shape(self, high: int, wide: int, channels: str = "g->out_channel, g->res_channel") -> str:
        """Return C of a tile's `sec_shape`: a stride is there where it is taken."""

        def two(which: str) -> str:
            strides = (
                getattr(a, which) if n > 1 else 0
                for a, n in zip(self.axes, (high, wide), strict=True)
            )
            return f"{{0, {', '.join(map(str, strides))}}}"

        return (
            f"const sec_shape s = {{{{1, 1, 1}}, {two('input')}, {two('output')}, "
            f"{two('residual')}, {channels}, {self.act}}};"
        )


def vector(step: Step, act: str, *, residual: bool) -> str:
    """Write the function of a dense layer at one position; return its name.

    Args:
        step: that is being written.
        act: C, the activation and its two numbers.
        residual: whether there is one.
    """
    return step.function(
        "vector",
        "(const sec_dense *w, const sec_shape *g, const float *in, float *out, "
        "const float *res, int t, int T) {\n"
        f"  const sec_shape s = {{{{1, 1, 1}}, {{0}}, {{0}}, {{0}}, 1, 1, {act}}};\n"
        "  (void)g; (void)res;\n"
        f"  sec_dense_vector(w, &s, in, out, {'res' if residual else '0'}, t, T);\n"
        "}",
    )


def single(step: Step, form: str, act: str, *, residual: bool) -> str:
    """Write the function of a sparse layer at one position; return its name.

    Args:
        step, act, residual: as of `vector`.
        form: `single` or `blocked`, after which the C is named.
    """
    return step.function(
        form,
        f"(const sec_{form} s, const char *prepared, const float *bias, const float *in, "
        "float *out, const float *res, int t, int T) {\n"
        "  (void)res;\n"
        f"  sec_{form}_layer(s, prepared, bias, in, out, {'res' if residual else '0'}, {act}, "
        "t, T);\n"
        "}",
    )
