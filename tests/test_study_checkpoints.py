"""Checkpoints of a study: what was cut takes a bit a weight, and comes back bit for bit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.errors import FileError
from secateur.pruning.selecting.masks import Masks
from secateur.study.checkpoints import Saved, content, read
from secateur.terminal.inspection import document
from secateur.terminal.verification import verify

STRANGE = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45, -3.5])


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bits, in which NaN is equal to itself and zeros have signs."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def network(shape: tuple[int, ...], keep: float, seed: int, dtype: torch.dtype) -> Saved:
    """A cut layer with gates, one that is never cut, and a number of batches."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    drawn = torch.rand(shape, generator=generator)
    weight = torch.where(drawn < 0.1, STRANGE[torch.randint(6, shape, generator=generator)], weight)
    mask = torch.rand(shape, generator=generator) < keep
    weight = weight.masked_fill(~mask, 0).to(dtype)
    tensors = {
        "a.weight": weight,
        "a.weight_gate": torch.randn(shape, generator=generator),
        "a.bias": torch.randn(shape[0], generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
    }
    return Saved(tensors, Masks({"a.weight": mask}))


def written(saved: Saved, folder: Path) -> Path:
    path = folder / "seed-0_gate_rung-0.5.safetensors"
    path.write_bytes(content(saved))
    return path


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from((0.0, 0.02, 0.1, 0.5, 1.0)),
    st.integers(0, 99),
    st.sampled_from((torch.float32, torch.bfloat16, torch.float64)),
)
def test_a_cut_network_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, ...],
    keep: float,
    seed: int,
    dtype: torch.dtype,
) -> None:
    saved = network(shape, keep, seed, dtype)
    assert saved.masks is not None
    again = read(written(saved, tmp_path_factory.mktemp("checkpoint")))
    assert again.masks == saved.masks
    assert set(again.network) == set(saved.network)
    for name in ("a.weight", "a.bias", "norm.num_batches_tracked"):
        assert again.network[name].dtype == saved.network[name].dtype
        assert torch.equal(bits(again.network[name]), bits(saved.network[name]))
    mask = saved.masks["a.weight"]
    gate = saved.network["a.weight_gate"] * mask
    assert torch.equal(again.network["a.weight_gate"], gate)
    assert content(again) == content(saved)


def test_a_cut_weight_takes_a_bit_and_its_gate_another() -> None:
    weights, keep = 100_000, 0.1
    saved = network((100, weights // 100), keep, 0, torch.float32)
    assert saved.masks is not None
    kept = saved.masks.kept
    rest = 4 * 100 + 8 + 1500  # what is never cut, and what the file says of itself
    assert len(content(saved)) <= 2 * (weights // 8 + 4 * kept) + rest
    plain = {**saved.network, **{f".mask.{n}": m for n, m in saved.masks.items()}}
    assert len(content(saved)) < 0.15 * sum(t.nbytes for t in plain.values())


def test_a_network_that_was_never_cut_is_a_plain_file(tmp_path: Path) -> None:
    saved = network((4, 3), 1.0, 0, torch.float32)
    path = written(Saved(saved.network), tmp_path)
    plain = load_file(path)
    assert all(torch.equal(bits(plain[n]), bits(saved.network[n])) for n in saved.network)
    assert read(path).masks is None


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    saved = network((4, 3), 0.5, 0, torch.float32)
    assert saved.masks is not None
    masks = {f".mask.{name}": mask for name, mask in saved.masks.items()}
    save_file({**saved.network, **masks}, tmp_path / "old.safetensors")
    again = read(tmp_path / "old.safetensors")
    assert again.masks == saved.masks
    assert all(torch.equal(bits(again.network[n]), bits(saved.network[n])) for n in saved.network)


@given(st.data())
def test_a_damaged_file_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its study knows its hash; without that there is one clear error, or tensors."""
    whole = content(network((6, 5), 0.4, 1, torch.float32))
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    path.write_bytes(changed[: data.draw(st.integers(0, len(whole)))])
    with suppress(FileError):
        read(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"float32", b"float99"), (b'"bits', b'"gaps'), (b"a.weight\\", b"b.weight\\")],
)
def test_facts_that_do_not_fit_are_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    whole = content(network((6, 5), 0.4, 1, torch.float32))
    assert old in whole
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(FileError, match="cannot read"):
        read(path)


def test_commands_see_the_tensors_and_not_how_they_are_packed(tmp_path: Path) -> None:
    saved = network((6, 5), 0.4, 1, torch.float32)
    path = written(saved, tmp_path)
    found: dict[str, Any] = {each["name"]: each for each in document(path)["tensors"]}
    assert found["a.weight"]["elements"] == 30
    assert found["a.weight"]["nonzero"] == int((saved.network["a.weight"] != 0).sum())
    assert verify(path).whole
    path.write_bytes(path.read_bytes()[:-9])
    assert not verify(path).whole
