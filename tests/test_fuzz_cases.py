"""Readers of foreign bytes: what fuzzing found, and some damage to what they take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz_json import changed
from fuzz_reader import tidy
from fuzz_readers import READERS, tried

FOUND = Path(__file__).parent / "data" / "fuzz"
CASES = sorted(path for path in FOUND.rglob("*") if path.is_file())


@pytest.fixture(scope="module", autouse=True)
def _tidied() -> Iterator[None]:
    yield
    tidy()


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_is_read_or_refused(path: Path) -> None:
    tried(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_its_seeds_and_refuses_damage(name: str) -> None:
    draw = random.Random(name)
    for seed in READERS[name].seeds():
        if name not in ("pickle", "sheet"):  # whose hash stands behind all else
            assert tried(name, seed)
        for _ in range(20):
            damaged = bytearray(seed)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(len(seed))] = draw.randrange(256)
            tried(name, bytes(damaged[: draw.choice([len(seed), draw.randrange(len(seed))])]))
        for _ in range(50 if READERS[name].json else 0):
            tried(name, changed(seed, draw) or b"")
