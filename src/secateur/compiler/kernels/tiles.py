"""How many positions a contraction works on at once, and what that costs.

Costs are in cycles, roughly those of one processor (Zen 5, AVX-512); they only need to rank the
choices. `secateur bench --layers` shows what each layer takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from secateur.compiler.kernels import Machine

CACHE = 37 * 1024
"""Bytes of inputs that one tile may read for one block of channels: the rest of a first-level cache
of 48 KiB is for sums and weights."""

SECOND = 2**20
"""Bytes of weights that may be read again for every tile: half of a second-level cache."""


@dataclass(frozen=True)
class Tile:
    """Vectors of positions worked on at once: high x wide; and its cost for a whole plane."""

    high: int
    wide: int
    cost: float

    def rests(self, high: int, wide: int) -> str:
        """Tell what a plane of high x wide leaves at the bottom and right, as names in C end."""
        return f"{high % self.high > 0:d}{wide % self.wide > 0:d}"


def choose(high: int, wide: int, most: int, each: float, fixed: float, floor: float) -> Tile:
    """Return the cheapest tile for a plane of high x wide vectors.

    Args:
        high, wide: the plane.
        most: vectors that fit the registers.
        each: cost of one step's multiply-adds for one vector of positions.
        fixed: cost of one step beside them: a broadcast, an index.
        floor: least cost of a step, set by the latency of dependent additions.
    """
    best: Tile | None = None
    for h in range(1, min(high, most) + 1):
        for w in range(1, min(wide, most // h) + 1):
            cost = _cost(high, wide, Tile(h, w, 0), each, fixed, floor)
            # of equals, the one that reads least: a window of three reaches a row further each way
            key = (round(cost, 6), (h + 2) * (w + 2), -w)
            if best is None or key < (
                round(best.cost, 6),
                (best.high + 2) * (best.wide + 2),
                -best.wide,
            ):
                best = Tile(h, w, cost)
    assert best is not None
    return best


def _cost(high: int, wide: int, tile: Tile, each: float, fixed: float, floor: float) -> float:
    """Return what a plane costs in tiles, those of its rests included; see `choose`."""
    rest_h, rest_w = high % tile.high, wide % tile.wide
    cost = 0.0
    for a, times_a in ((tile.high, high // tile.high), (rest_h, 1 if rest_h else 0)):
        for b, times_b in ((tile.wide, wide // tile.wide), (rest_w, 1 if rest_w else 0)):
            cost += times_a * times_b * max(a * b * each + fixed, floor)
    return cost


def sums(taps: int, machine: Machine) -> int:
    """Return how many vectors of sums a tile of a sparse layer has at most: half of the registers.

    With one tap there is no halo whose reading a larger tile would share, and inputs of many
    channels must stay near: half as many.
    """
    most = 16 if machine.registers >= 32 else 10
    return most if taps > 1 else most // 2


def sparse(high: int, wide: int, most: int) -> Tile:
    """Tile of a sparse layer for a plane of high x wide vectors."""
    return choose(high, wide, most, each=0.6, fixed=1.6, floor=2.0)


def dense(
    high: int, wide: int, outputs: int, machine: Machine, *, least: int = 1
) -> tuple[int, Tile]:
    """Return (outputs at once, tile) of a dense layer: outputs x vectors of sums.

    The cost of the tile is that of all outputs. Those that are left over are done `least` by
    `least`, which is also how many must be done at once.
    """
    options = []
    for together in (8, 4, 2, 1):
        if together < least or (together > outputs and together > least):
            continue
        room = (machine.registers - 2) // (together + 1)
        if room < 1:
            continue
        tile = choose(high, wide, room, **_step(together))
        whole, rest = divmod(outputs, together)
        left = _cost(high, wide, tile, **_step(least)) if rest else 0.0
        cost = whole * tile.cost + rest / least * left
        options.append((cost, -together, together, Tile(tile.high, tile.wide, cost)))
    *_, together, tile = min(options, key=lambda o: o[:2])
    return together, tile


def _step(together: int) -> dict[str, float]:
    """Return what a step costs: multiply-adds and loads of vectors; broadcasts of weights."""
    return {"each": 0.45 * together + 0.5, "fixed": 0.2 * together + 0.5, "floor": 4.0}
