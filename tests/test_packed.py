"""Packing: every bit comes back, in the shortest of three forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.pruning.files.packed import DTYPES, Packed, kept_of, pack, unpack

SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    flat = flat.as_strided((1,), (1,)) if flat.numel() == 1 else flat.contiguous()
    return flat.view(torch.uint8).numpy().tobytes()


def round_trip(tensor: Tensor, kept: Tensor | None = None) -> Packed:
    packed = pack(tensor, kept)
    back = unpack(packed, tensor.dtype, tuple(tensor.shape))
    assert (back.dtype, back.shape, bits(back)) == (tensor.dtype, tensor.shape, bits(tensor))
    return packed


@given(
    name=st.sampled_from(sorted(DTYPES)),
    shape=SHAPES,
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_bits_of_any_dtype_come_back(
    name: str, shape: tuple[int, ...], density: float, seed: int
) -> None:
    dtype, rng = DTYPES[name], np.random.default_rng(seed)
    content = rng.integers(0, 256, (math.prod(shape), dtype.itemsize), dtype=np.uint8)
    if dtype == torch.bool:
        content %= 2
    content[rng.random(len(content)) >= density] = 0
    tensor = torch.from_numpy(content.reshape(-1)).view(dtype).reshape(shape)
    packed = round_trip(tensor)
    assert torch.equal(
        kept_of(packed, dtype, shape), torch.from_numpy(content.any(1)).reshape(shape)
    )
    # never longer than dense
    assert len(packed.content) <= content.size


@given(st.lists(st.integers(0, 1200), max_size=6), st.integers(0, 1200))
def test_gaps_of_every_length_come_back(gaps: list[int], rest: int) -> None:
    parts = [torch.tensor([0.0] * gap + [float(i + 1)]) for i, gap in enumerate(gaps)]
    round_trip(torch.cat([*parts, torch.zeros(rest)]))


def test_what_is_no_number_comes_back() -> None:
    special = torch.tensor([0x80000000, 0x7FC00001, -1, 0x7F800000, 0xFF800000, 1, 0x7F800001])
    values = torch.zeros(200, dtype=torch.int32)
    values[::29] = special.to(torch.int32)
    packed = round_trip(values.view(torch.float32))
    assert packed.count == 7


@pytest.mark.parametrize(
    ("keep", "form", "limit"),
    [(1.0, "dense", 1.0), (0.5, "bits", 0.54), (0.1, "gaps", 0.126), (0.02, "gaps", 0.026)],
)
def test_the_shortest_form_is_taken(keep: float, form: str, limit: float) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(40_000)
    tensor[torch.randperm(40_000)[round(keep * 40_000) :]] = 0
    packed = round_trip(tensor)
    assert packed.form == form
    assert len(packed.content) <= limit * 160_000


def test_views_are_packed_in_their_own_order() -> None:
    base = torch.arange(48.0).reshape(1, 4, 3, 4)
    for tensor in (
        base.transpose(1, 3),
        base.to(memory_format=torch.channels_last),
        base[:, 1::2],
        base[0, 0, 0, 1],
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,  # lazily negated
        torch.nn.Parameter(base),
    ):
        round_trip(tensor.resolve_conj().resolve_neg())
        back = unpack(pack(tensor), tensor.dtype, tuple(tensor.shape))
        assert torch.equal(back, tensor)


@pytest.mark.parametrize("keep", [0.03, 0.4, 0.999])
def test_what_is_kept_can_be_read_off_even_where_it_is_zero(keep: float) -> None:
    torch.manual_seed(0)
    kept = torch.rand(30, 70) < keep
    tensor = torch.randn(30, 70).masked_fill(~kept, 0)
    tensor[kept.nonzero()[0].tolist()[0]] = 0  # a row of kept zeros
    packed = round_trip(tensor, kept)
    assert packed.form != "dense"
    assert torch.equal(kept_of(packed, tensor.dtype, (30, 70)), kept)


def test_a_mask_that_the_zeros_tell_costs_nothing() -> None:
    tensor = torch.tensor([1.0, 2.0, 0.0, 3.0])
    assert round_trip(tensor, tensor != 0).form == "bits"
    full = torch.ones(3)
    packed = round_trip(full, full != 0)
    assert packed.form == "dense"
    assert kept_of(packed, full.dtype, (3,)).all()


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


ELEMENT = (0, 0, 128, 63)
WRONG = {
    "dense, too short": (Packed("dense", 2, u8(*ELEMENT)), (2,)),
    "dense, not all": (Packed("dense", 1, u8(*ELEMENT)), (2,)),
    "unknown form": (Packed("rice", 1, u8(*ELEMENT)), (1,)),  # type: ignore[arg-type]
    "more than there are": (Packed("bits", 2, u8(1, *ELEMENT, *ELEMENT)), (1,)),
    "bits, too few": (Packed("bits", 1, u8(0, *ELEMENT)), (3,)),
    "bits, too many": (Packed("bits", 1, u8(3, *ELEMENT)), (3,)),
    "bits, behind the end": (Packed("bits", 1, u8(8, *ELEMENT)), (3,)),
    "bits, index too long": (Packed("bits", 1, u8(1, 0, *ELEMENT)), (3,)),
    "gaps, behind the end": (Packed("gaps", 1, u8(3, *ELEMENT)), (3,)),
    "gaps, skips behind the end": (Packed("gaps", 1, u8(255, 1, *ELEMENT)), (3,)),
    "gaps, more than counted": (Packed("gaps", 1, u8(0, 0, *ELEMENT)), (3,)),
    "gaps, fewer than counted": (Packed("gaps", 1, u8(255, *ELEMENT)), (300,)),
    "gaps, no index": (Packed("gaps", 1, u8(*ELEMENT)), (3,)),
    "gaps, negative index": (Packed("gaps", 2, u8(*ELEMENT)), (3,)),
    "gaps, end far away": (Packed("gaps", 1, u8(0, *ELEMENT)), (300,)),
    "gaps, huge": (Packed("gaps", 1, u8(0, *ELEMENT)), (2**40, 2**20)),
    "bits, huge": (Packed("bits", 1, u8(1, *ELEMENT)), (2**62,)),
    "dense, huge": (Packed("dense", 2**62, u8(*ELEMENT)), (2**62,)),
    "too many dimensions": (Packed("dense", 1, u8(*ELEMENT)), (1,) * 65),
}


@pytest.mark.parametrize("packed, shape", WRONG.values(), ids=WRONG.keys())  # noqa: PT006
def test_bytes_that_do_not_fit_are_refused(packed: Packed, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"fit|cannot|as many|dimensions"):
        unpack(packed, torch.float32, shape)
    with pytest.raises(ValueError, match=r"fit|cannot|as many|dimensions"):
        kept_of(packed, torch.float32, shape)


def test_bools_are_bools() -> None:
    with pytest.raises(ValueError, match="bool"):
        unpack(Packed("dense", 2, u8(1, 2)), torch.bool, (2,))


@given(st.sampled_from(["dense", "bits", "gaps"]), st.binary(max_size=40), st.integers(0, 20))
def test_no_bytes_break_it(form: str, content: bytes, count: int) -> None:
    packed = Packed(form, count, np.frombuffer(content, np.uint8))  # type: ignore[arg-type]
    for shape in ((), (7,), (300,), (3, 5)):
        try:
            tensor = unpack(packed, torch.float16, shape)
        except ValueError:
            continue
        assert bits(unpack(pack(tensor), torch.float16, shape)) == bits(tensor)


def test_the_bytes_are_those_of_the_documentation() -> None:
    bits_form = torch.tensor([0, 1.5, *[0] * 6, -0.0, 0])
    gaps_form = torch.tensor([*[0] * 3, 1.5, *[0] * 300, -2, *[0] * 260])
    assert pack(bits_form).content.tobytes().hex() == "02010000c03f00000080"
    assert pack(gaps_form).content.tobytes().hex() == "03ff2dff0000c03f000000c0"
