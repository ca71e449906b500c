"""Networks that were changed at random are taken or refused: nothing else is raised."""

from __future__ import annotations

import pytest

import fuzz_networks
from fuzz_networks import compiled, mutant, read, seeds, tried


def faults(seed: int, count: int, attempt: object) -> list[str]:
    assert callable(attempt)
    found = [(k, tried(mutant(seed, k), attempt)) for k in range(count)]
    return [f"{seed} {k}: {what}" for k, what in found if what[0].isupper()]


def test_the_reader_and_the_passes_refuse_or_take() -> None:
    assert faults(1, 100, read) == []


@pytest.mark.long
def test_many_more() -> None:
    assert faults(2, 3000, read) == []


@pytest.mark.long
def test_what_is_taken_compiles_and_is_right() -> None:
    assert faults(3, 40, compiled) == []


def test_a_mutant_is_the_same_each_time_and_faults_are_seen() -> None:
    assert len({mutant(0, k) for k in range(20)}) > 15
    assert mutant(0, 3) == mutant(0, 3)

    def broken(_: bytes) -> str:
        raise LookupError("gone\nand lost")

    def slow(_: bytes) -> str:
        while True:
            pass

    assert tried(b"", broken).startswith("RAISED LookupError: gone")
    assert tried(b"", slow, 0.05).startswith("SLOW")
    assert tried(seeds()[2], read) == "taken"
    assert tried(b"x", read) == "refused"
    assert fuzz_networks.MEMORY == 2**30
