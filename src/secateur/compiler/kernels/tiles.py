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


@dataclass(frozen=True)
class Tile:
    """Vectors of positions worked on at once: high x wide; and its cost for a whole plane."""

    high: int
    wide: int
    cost: float


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
            rest_h, rest_w = high % h, wide % w
            cost = 0.0
            for a, times_a in ((h, high // h), (rest_h, 1 if rest_h else 0)):
                for b, times_b in ((w, wide // w), (rest_w, 1 if rest_w else 0)):
                    cost += times_a * times_b * max(a * b * each + fixed, floor)
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


def dense(high: int, wide: int, outputs: int, machine: Machine) -> tuple[int, Tile]:
    """Return (outputs at once, tile) of a dense layer: outputs x vectors of sums."""
    options = []
    for together in (8, 4, 2, 1):
        if together > outputs and together > 1:
            continue
        room = (machine.registers - 2) // (together + 1)
        if room < 1:
            continue
        tile = choose(high, wide, room, each=0.75 * together, fixed=0.5, floor=4.0)
        options.append((tile.cost, -together, together, tile))
    _, _, together, tile = min(options, key=lambda o: o[:2])
    return together, tile
