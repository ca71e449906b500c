"""Scores of every example as text: exact, small, and safe to read."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secateur.errors import UsageError
from secateur.study.samples import MOST_EXAMPLES, packed, unpacked

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY = arrays.arrays(np.float32, st.integers(1, 200), elements=FINITE)
TWO = st.lists(FINITE, min_size=1, max_size=2).flatmap(
    lambda values: arrays.arrays(np.float32, st.integers(1, 200), elements=st.sampled_from(values))
)


def text_of(content: bytes, count: int = 4) -> str:
    return base64.b64encode(zlib.compress(struct.pack("<I", count) + content)).decode()


@given(st.one_of(ANY, TWO))
def test_the_same_bits_come_back(scores):
    text = packed(scores)
    back = unpacked(text, len(scores))
    assert back.dtype == np.float32
    assert back.tobytes() == scores.tobytes()
    assert text.isascii()
    assert packed(back) == text


@given(st.one_of(ANY, TWO), st.integers(1, 300))
def test_only_as_many_as_were_packed_come_back(scores, n):
    text = packed(scores)
    if n == len(scores):
        assert len(unpacked(text, n)) == n
    else:
        with pytest.raises(ValueError, match="scores "):
            unpacked(text, n)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_right_or_wrong_is_small(share):
    hits = np.random.default_rng(0).random(10_000) < share
    text = packed(100 * hits.astype(np.float32))
    assert len(text) < 1_750
    assert len(text) < 1_200 or share == 0.5


def test_other_scores_take_no_more_than_their_bytes():
    scores = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    assert len(packed(scores)) < 4 / 3 * 40_200


def test_arrays_in_steps_and_of_other_byte_order_are_packed_as_their_values():
    scores = np.arange(10, dtype=np.float32)
    assert packed(scores[::2]) == packed(scores[::2].copy())
    assert packed(scores.astype(">f4").astype("=f4")) == packed(scores)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros(3), "float64"),
        (np.zeros((3, 1), np.float32), r"\[3, 1\]"),
        (np.zeros(0, np.float32), "N >= 1"),
        (np.float32([0, 1, np.nan]), "score 2 is nan"),
        (np.float32([-np.inf]), "score 0 is -inf"),
        (np.zeros(MOST_EXAMPLES + 1, np.float32), "1,000,001 scores"),
    ],
)
def test_what_cannot_be_packed_is_refused(scores, message):
    with pytest.raises(UsageError, match=message):
        packed(scores)


@pytest.mark.parametrize("n", [0, -1, 2.0, MOST_EXAMPLES + 1])
def test_wrong_counts_are_refused(n):
    with pytest.raises(UsageError, match="n is"):
        unpacked(packed(np.zeros(2, np.float32)), n)


@given(st.one_of(ANY, TWO), st.data())
def test_a_damaged_text_never_gives_other_scores(scores, data):
    text = packed(scores)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("Ab3/+=é \n"))
    damaged = data.draw(
        st.sampled_from(
            [text[:place], text[:place] + letter + text[place + 1 :], text + letter, text[place:]]
        )
    )
    try:
        found = unpacked(damaged, len(scores))
    except ValueError as error:
        assert str(error).startswith("scores ")  # noqa: PT017
    else:
        assert found.tobytes() == scores.tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cut off"),
        ("no base64!", "damaged"),
        (base64.b64encode(b"no zlib").decode(), "damaged"),
        (base64.b64encode(zlib.compress(b"")).decode(), "of 0 examples"),
        (text_of(b"\0" + bytes(16), count=5), "of 5 examples, not of 4"),
        (text_of(b""), "not written as those of 4"),
        (text_of(b"\2" + bytes(16)), "not written as those of 4"),
        (text_of(b"\0" + bytes(15)), "not written as those of 4"),
        (text_of(b"\0" + struct.pack("<4f", 0, 1, float("nan"), 2)), "finite"),
        (text_of(b"\1" + struct.pack("<2f", 0, float("inf")) + b"\x80"), "finite"),
        (text_of(b"\1" + struct.pack("<2f", 0, 100) + b"\x08"), "behind the last"),
        (
            base64.b64encode(zlib.compress(bytes(4)) + b"x").decode(),
            "something follows",
        ),
        ("A" * 10_000, "10,000 letters"),
    ],
)
def test_hostile_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        unpacked(text, 4)


def test_a_bomb_is_not_blown_up():
    bomb = base64.b64encode(zlib.compress(bytes(1 << 26), 9)).decode()
    with pytest.raises(ValueError, match="letters"):
        unpacked(bomb, 1000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more examples"):
        unpacked(bomb, MOST_EXAMPLES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
