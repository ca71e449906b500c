"""Functions that ONNX lacks, or has only lately, are exported and compiled as what it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fft, nn
from torch.nn import functional

import secateur
from secateur.errors import CompileError

pytest.importorskip("onnx")


class Net(nn.Module):
    """A function of an input and of weights, which may be a spectrum."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(7, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


def agrees(model: nn.Module, shape: tuple[int, ...], path: Path, *, batched: bool = True) -> None:
    """Check file and engine against torch, on other numbers, and on more samples where free."""
    torch.manual_seed(0)
    secateur.export_onnx(model, torch.randn(2, *shape), path, batched=batched, tolerance=1e-5)
    x = torch.randn(5 if batched else 2, *shape)
    with torch.no_grad(), secateur.compile(path) as engine:
        wanted, got = model.eval()(x).numpy(), engine(x.numpy())
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "options",
    [
        {"size": (3, 4), "mode": "bicubic"},
        {"size": 11, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 0.6, "mode": "bilinear"},
        {"scale_factor": (0.6, 1.7), "mode": "bicubic", "recompute_scale_factor": True},
    ],
    ids=str,
)
def test_resizes_that_smooth(options: dict[str, object], tmp_path: Path) -> None:
    net = Net(lambda x, _: functional.interpolate(x, antialias=True, **options))  # type: ignore[arg-type]
    agrees(net, (3, 7, 9), tmp_path / "net.onnx")


SPECTRA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mixed tokens": lambda x, _: fft.fftn(x, dim=(1, 2)).real,
    "one axis after the other": lambda x, _: fft.fft(fft.fft(x), dim=-2).imag,
    "sizes": lambda x, _: torch.abs(fft.rfft(x, norm="ortho")),
    "filtered by weights": lambda x, w: fft.irfft2(
        fft.rfft2(x, norm="ortho") * torch.view_as_complex(w), s=(7, 8), norm="ortho"
    ),
    "scaled": lambda x, w: fft.irfftn(w[..., 0] * fft.rfftn(x, dim=(1, 2)), dim=(1, 2)),
    "correlated": lambda x, _: fft.irfft(fft.rfft(x) * torch.conj(fft.rfft(x.flip(-1)))),
    "padded and cut": lambda x, _: fft.ifft2((2 - 1j) * fft.fft2(x, s=(9, 6))).imag,
    "low ones": lambda x, _: fft.irfft(fft.rfft(x)[..., :3], n=8),
    "as parts": lambda x, _: torch.view_as_real(fft.ifftn(x, dim=(1, 2), norm="forward")),
    "turned": lambda x, w: torch.view_as_real(
        torch.view_as_complex(x.unflatten(-1, (4, 2)))
        * torch.polar(w[:, 0, :1].square(), w[:, :4, 1]).unsqueeze(0).to(x.device)
    ).flatten(-2),
    "differences": lambda x, w: (torch.view_as_complex(w) + fft.rfft(x) - fft.rfft(3 * x)).abs(),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_fourier_transforms(name: str, tmp_path: Path) -> None:
    agrees(Net(SPECTRA[name]), (7, 8), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x, _: torch.exp(fft.fft(x)).real, "exp of complex numbers has no ONNX operator"),
        (lambda x, w: (fft.rfft(x) * w.new_ones(5, dtype=torch.cfloat)).real, "complex tensors"),
        (lambda x, _: fft.fft(x.repeat(1, 1, 1000)).real, "of 8000 numbers is no product"),
    ],
)
def test_what_has_no_product_is_refused(
    function: Callable[[Tensor, Tensor], Tensor], match: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=f"torch cannot export Net to ONNX: .*{match}"):
        secateur.export_onnx(Net(function), torch.randn(2, 7, 8), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((12, 12), {"kernel_size": 2, "stride": 2}),
        ((12, 35), {"kernel_size": (2, 2)}),
        (
            (18, 15),
            {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 1), "dilation": (1, 3)},
        ),
    ],
    ids=str,
)
def test_windows_are_added_up(
    shape: tuple[int, int], options: dict[str, object], tmp_path: Path
) -> None:
    net = Net(lambda x, _: functional.fold(x, (6, 8), **options))  # type: ignore[arg-type]
    agrees(net, shape, tmp_path / "net.onnx")


def test_windows_of_any_axis(tmp_path: Path) -> None:
    for axis in (-2, -1, 1):
        net = Net(lambda x, _, axis=axis: x.unfold(axis, 3, 2).sum(-1))  # type: ignore[misc]
        agrees(net, (7, 8), tmp_path / "net.onnx")


def test_axes_in_another_order(tmp_path: Path) -> None:
    agrees(Net(lambda x, _: x.permute(0, -1, -2).exp()), (3, 5), tmp_path / "net.onnx")
    agrees(Net(lambda x, _: torch.permute(x, dims=(0, -1, 1)).exp()), (3, 5), tmp_path / "net.onnx")
    agrees(Net(lambda x, _: x.permute([0, 2, -2]).exp()), (3, 5), tmp_path / "net.onnx")


def test_elements_are_repeated(tmp_path: Path) -> None:
    for axis in (-2, -1, 1):
        net = Net(lambda x, _, axis=axis: x.repeat_interleave(3, dim=axis))  # type: ignore[misc]
        agrees(net, (4, 5), tmp_path / "net.onnx")
    agrees(
        Net(lambda x, w: x * w[0, 0].repeat_interleave(2).repeat_interleave(torch.tensor(2))),
        (3, 8),
        tmp_path / "net.onnx",
    )


def test_differences_of_neighbours(tmp_path: Path) -> None:
    net = Net(lambda x, w: torch.diff(x, 2, 1, prepend=x[:, :1], append=w[0, 0, :1] * x[:, :1]))
    agrees(net, (7, 5), tmp_path / "net.onnx")
    agrees(Net(lambda x, _: (x > 0).diff().float()), (7, 5), tmp_path / "net.onnx")


def test_bools_are_counted_up(tmp_path: Path) -> None:
    agrees(Net(lambda x, _: (x > 0).cumsum(-1).float()), (3, 7), tmp_path / "net.onnx")
    agrees(Net(lambda x, _: x.int().cumsum(dim=1) / 2), (3, 7), tmp_path / "net.onnx")


class Standardized(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1, as in BiT and NFNet."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-3)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride)


def test_weights_that_a_layer_standardizes_are_constants(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    agrees(nn.Sequential(Standardized(3, 8, 3, stride=2), nn.ReLU()), (3, 9, 9), path)
    with secateur.compile(path) as engine:
        steps = [step for step, _ in engine.profile(np.zeros((1, 3, 9, 9), np.float32))]
    assert sum("Conv" in step for step in steps) == 1
    assert {step.split()[0] for step in steps} <= {"Relayout", "Fill", "FusedConv"}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_batch_may_be_normalized_by_its_own_statistics(axes: int, tmp_path: Path) -> None:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1]
    own = norm(4, eps=1e-3, track_running_stats=False)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    agrees(own, (4, *range(3, 3 + axes)), tmp_path / "net.onnx", batched=False)
