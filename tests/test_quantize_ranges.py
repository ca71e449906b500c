"""Scales and integers: 0 is exact, scales are sane for any numbers, zeros stay zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import secateur
from secateur.export import to_onnx
from secateur.quantization import equalizing, running
from secateur.quantization import network as networks
from secateur.quantization.placement import layers_of
from secateur.quantization.ranges import METHODS, Histogram, scale_of
from secateur.quantization.search import Search
from secateur.quantization.weights import integers_of

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2), elements=FLOATS)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


@given(FLOATS, FLOATS)
def test_0_is_exact_and_scales_are_sane_for_any_range(one: float, other: float) -> None:
    scale = scale_of(min(one, other), max(one, other))
    assert SMALLEST_NORMAL <= float(scale.step) < float("inf")
    assert scale.step.dtype == np.float32
    assert scale.zero.dtype == np.uint8
    assert scale.rounded(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    assert np.isfinite(scale.rounded(np.float32([one, other, 3e38, -3e38]))).all()


@given(FLOATS, FLOATS, st.floats(0, 1))
def test_what_lies_in_a_range_is_at_most_half_a_step_away(
    one: float, other: float, part: float
) -> None:
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    scale = scale_of(low, high)
    x = np.float32([np.float32(low + part * (high - low))])
    # the zero point is rounded, too, and float32 has its own steps
    assert abs(float(scale.rounded(x)[0]) - float(x[0])) <= 1.02 * float(scale.step)


@given(ARRAYS, st.sampled_from(METHODS))
def test_every_method_gives_a_range_within_what_was_seen(x: np.ndarray, method: str) -> None:
    histogram = Histogram()
    histogram.add("x", x)
    assert histogram.counts.sum() == x.size
    low, high = histogram.range(method)
    assert min(float(x.min()), 0) <= low <= high <= max(float(x.max()), 0)
    if method == "minmax":
        assert (low, high) == (min(float(x.min()), 0), max(float(x.max()), 0))
    assert float(scale_of(low, high).step) >= SMALLEST_NORMAL


@given(st.lists(ARRAYS, min_size=2, max_size=4))
def test_parts_that_are_merged_have_the_ends_and_the_count_of_all(parts: list[np.ndarray]) -> None:
    whole, merged = Histogram(), Histogram()
    for part in parts:
        whole.add("x", part)
        one = Histogram()
        one.add("x", part)
        merged = merged.merged(one)
    assert (merged.low, merged.high) == (whole.low, whole.high)
    assert merged.counts.sum() == whole.counts.sum() == sum(part.size for part in parts)
    assert merged.limit == whole.limit


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-45, 1e-38, 3e38, -3e38])
@pytest.mark.parametrize("method", METHODS)
def test_a_constant_has_a_sane_scale(value: float, method: str) -> None:
    histogram = Histogram()
    x = np.full(1000, value, np.float32)
    histogram.add("x", x)
    scale = scale_of(*histogram.range(method))
    assert SMALLEST_NORMAL <= float(scale.step) < float("inf")
    if abs(value) > 1e-18:
        np.testing.assert_allclose(scale.rounded(x[:1]), x[:1], rtol=0.01)


def test_percentiles_leave_out_a_share_and_mse_what_costs_more_than_it_gives() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal(200_000)).astype(np.float32)
    x[0] = 1000
    histogram = Histogram()
    histogram.add("x", x)
    exact = np.quantile(x, [0.999, 0.9999])
    for method, end in zip(("p99.9", "p99.99"), exact, strict=True):
        assert histogram.range(method)[1] == pytest.approx(end, abs=2 * histogram.limit / 4096)
    low, high = histogram.range("mse")

    def error(high: float) -> float:
        return float(((scale_of(0, high).rounded(x) - x).astype(np.float64) ** 2).mean())

    assert low == 0
    assert error(high) <= error(1000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_by_name(bad: float) -> None:
    from secateur.errors import UsageError

    with pytest.raises(UsageError, match=r"value 'hidden' .* NaN or infinite on the calibration"):
        Histogram().add("hidden", np.float32([1, bad]))


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4), elements=FLOATS),
    st.booleans(),
    st.integers(0, 1),
)
def test_zeros_of_weights_stay_zeros_whatever_the_others_are(
    weight: np.ndarray, clipped: bool, axis: int
) -> None:
    integers, steps = integers_of(weight, axis, clipped=clipped)
    assert integers.shape == weight.shape
    assert integers.dtype == np.int8
    assert not integers[weight == 0].any()
    assert np.abs(integers.astype(int)).max(initial=0) <= 127
    assert steps.shape == (weight.shape[axis],)
    assert (steps >= SMALLEST_NORMAL).all()
    assert np.isfinite(steps).all()
    rows = np.moveaxis(weight, axis, 0).reshape(len(steps), -1)
    np.testing.assert_array_equal(steps[~rows.any(1)], 1)
    if not clipped:
        whole = np.moveaxis(integers, axis, 0).reshape(len(steps), -1) * steps[:, None]
        assert (np.abs(whole.astype(np.float64) - rows) <= 0.501 * steps[:, None]).all()


@given(hnp.arrays(np.float32, (3, 40), elements=st.floats(-10, 10, width=32)))
def test_clipped_weights_are_no_further_off_in_the_mean(weight: np.ndarray) -> None:
    errors = []
    for clipped in (False, True):
        integers, steps = integers_of(weight, 0, clipped=clipped)
        errors.append(((integers * steps[:, None] - weight).astype(np.float64) ** 2).sum(1))
    assert (errors[1] <= errors[0] * 1.0001 + 1e-12).all()


def _two_layers(kind: str, gain: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    parts: tuple[nn.Module, ...]
    if kind == "linear":
        parts = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
    elif kind == "depthwise":
        parts = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=8)
    else:
        parts = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1, bias=False)
    module = nn.Sequential(*parts).eval()
    with torch.no_grad():
        scale = torch.from_numpy(gain)
        module[0].weight.mul_(scale.reshape(-1, *[1] * (module[0].weight.dim() - 1)))
        module[0].bias.mul_(scale)
        module[0].weight[torch.rand_like(module[0].weight) < 0.5] = 0
    return module


@pytest.mark.parametrize("kind", ["linear", "depthwise", "convolution"])
@settings(max_examples=15)  # each exports a network
@given(hnp.arrays(np.float32, 8, elements=st.floats(2**-8, 2**8, width=32)))
def test_equalised_channels_change_nothing_in_float(kind: str, gain: np.ndarray) -> None:
    module = _two_layers(kind, gain)
    shape = (6,) if kind == "linear" else (3, 6, 6)
    content = to_onnx(module, torch.zeros(1, *shape))
    network = networks.read(content)
    layers = layers_of(network.graph)
    x = np.random.default_rng(0).standard_normal((9, *shape)).astype(np.float32)
    found = equalizing.pairs(network.graph, layers)
    assert len(found) == 1
    (key,) = network.graph.inputs
    other = equalizing.equalized(network, layers, found, {key: x})
    before, after = (running.run(one, {key: x}) for one in (network, other))
    np.testing.assert_array_equal(after["output"], before["output"])
    zeros = [
        {name: int((layer.values(one.graph)[0] == 0).sum()) for name, layer in layers.items()}
        for one, layers in ((network, layers), (other, layers_of(other.graph)))
    ]
    assert zeros[0] == zeros[1]


def test_channels_of_any_sizes_are_quantised_as_channels_of_one_size() -> None:
    """Ranges are chosen anew for equalised channels: they need none of the others' cuts."""
    x = np.random.default_rng(0).standard_normal((32, 3, 6, 6)).astype(np.float32)
    made, least = {}, {}
    for factor in (1.0, 4.0):
        module = _two_layers("depthwise", np.float32(factor) ** np.arange(8, dtype=np.float32))
        with torch.no_grad():  # what the channels are is undone by the second layer
            for k in range(8):
                module[2].weight[2 * k : 2 * k + 2] /= factor**k
        network = networks.read(to_onnx(module, torch.zeros(1, 3, 6, 6)))
        search = Search(network, layers_of(network.graph), {"input": x}, lambda text: None)
        least[factor] = search.error(search.plan(search.best(())))
        made[factor] = secateur.quantize(module, x)
    assert made[4].equalized
    assert "channels equalised" in made[4].summary()
    assert made[4].error < 0.02 < least[4]
    assert made[4].error < 1.2 * made[1].error
    assert made[4].method == min(made[4].errors, key=made[4].errors.__getitem__)
