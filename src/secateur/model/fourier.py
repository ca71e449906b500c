"""Complex numbers and Fourier transforms, in operators that exporters know, which are all real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fft

from secateur.model.tracing import untraced

Transform = Callable[..., Tensor]

_ALONG_SEVERAL: dict[object, tuple[Transform, Transform]] = {
    **dict.fromkeys((fft.fft2, fft.fftn), (fft.fft, fft.fft)),
    **dict.fromkeys((fft.ifft2, fft.ifftn), (fft.ifft, fft.ifft)),
    **dict.fromkeys((fft.rfft2, fft.rfftn), (fft.rfft, fft.fft)),
    **dict.fromkeys((fft.irfft2, fft.irfftn), (fft.irfft, fft.ifft)),
}
"""What is done along the last of the axes, and along all others."""

MOST = 2**24
"""Elements of a matrix."""

_PLANES = frozenset({fft.fft2, fft.ifft2, fft.rfft2, fft.irfft2})
"""Functions of two axes by default, not of all."""


@dataclass(frozen=True)
class Spectrum:
    """Complex numbers, as their parts; both have the same shape and are real."""

    real: Tensor
    imag: Tensor

    @property
    def shape(self) -> torch.Size:
        """That of either part."""
        return self.real.shape

    @property
    def device(self) -> torch.device:
        """That of both parts."""
        return self.real.device

    def to(self, device: torch.device) -> Spectrum:
        """Return them on a device."""
        return Spectrum(self.real.to(device), self.imag.to(device))

    def unsqueeze(self, dim: int) -> Spectrum:
        """Return them with one more axis, of extent 1."""
        return Spectrum(self.real.unsqueeze(dim), self.imag.unsqueeze(dim))

    def abs(self) -> Tensor:
        """Return the sizes."""
        return (self.real.square() + self.imag.square()).sqrt()

    def conj(self) -> Spectrum:
        """Return the conjugates."""
        return Spectrum(self.real, -self.imag)

    def __getitem__(self, places: Any) -> Spectrum:
        return Spectrum(self.real[places], self.imag[places])

    def __add__(self, other: Any) -> Spectrum:
        real, imag = _parts(other)
        return Spectrum(self.real + real, self.imag + imag)

    def __sub__(self, other: Any) -> Spectrum:
        real, imag = _parts(other)
        return Spectrum(self.real - real, self.imag - imag)

    def __mul__(self, other: Any) -> Spectrum:
        real, imag = _parts(other)
        return Spectrum(self.real * real - self.imag * imag, self.real * imag + self.imag * real)

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in _OF_SPECTRA:
            raise NotImplementedError(f"{func.__name__} of complex numbers has no ONNX operator")
        return _OF_SPECTRA[func](*args, **(kwargs or {}))


def _parts(value: Any) -> tuple[Any, Any]:
    if isinstance(value, (Spectrum, complex)):
        return value.real, value.imag
    if isinstance(value, Tensor) and value.is_complex():
        raise NotImplementedError("complex tensors of the model itself have no ONNX operator")
    return value, 0.0


_OF_SPECTRA: dict[object, Callable[..., Any]] = {
    torch.abs: Spectrum.abs,
    torch.conj: Spectrum.conj,
    torch.real: lambda x: x.real,
    torch.imag: lambda x: x.imag,
    torch.view_as_real: lambda x: torch.stack([x.real, x.imag], -1),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), lambda a, b: b * a),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), lambda a, b: b + a),
}


def _along_one(
    transform: Any,
    input: Tensor | Spectrum,
    n: int | None = None,
    dim: int = -1,
    norm: str | None = None,
) -> Tensor | Spectrum:
    """Transform by products.

    What lies along the axis is mapped linearly, its real and its imaginary parts, and torch tells
    the matrices: they are what becomes of the identity.
    """
    extent, n = int(input.shape[dim]), None if n is None else int(n)
    if extent * max(extent, n or 0) > MOST:
        raise NotImplementedError(f"a Fourier transform of {extent} numbers is no product here")
    with untraced():
        one = torch.eye(extent, dtype=torch.float64)
        of_real = transform(one, n, norm=norm)
    if isinstance(input, Spectrum):
        with untraced():
            of_imaginary = transform(1j * one, n, norm=norm)
        parts = [(input.real, of_real), (input.imag, of_imaginary)]
    else:
        parts = [(input, of_real)]

    def product(take: Callable[[Tensor], Tensor]) -> Tensor:
        found = []
        for part, matrix in parts:
            with untraced():
                constant = take(matrix).to(part).contiguous()
            found.append((part.transpose(dim, -1) @ constant).transpose(dim, -1))
        return found[0] if len(found) == 1 else found[0] + found[1]

    if not of_real.is_complex():
        return product(lambda matrix: matrix)
    return Spectrum(product(torch.real), product(torch.imag))


def _along_several(
    func: Any,
    input: Tensor | Spectrum,
    s: Sequence[int] | None = None,
    dim: Sequence[int] | int | None = None,
    norm: str | None = None,
) -> Tensor | Spectrum:
    rank = len(input.shape)
    if dim is None:
        count = 2 if func in _PLANES else rank if s is None else len(s)
        dim = range(rank - count, rank)
    axes = [dim] if isinstance(dim, int) else list(dim)
    wanted: Sequence[int | None] = s or [None] * len(axes)
    sizes = dict(zip(axes, wanted, strict=True))
    last, others = _ALONG_SEVERAL[func]
    *before, end = axes
    of_last = [(last, end)]
    steps = [(others, axis) for axis in before]
    # real numbers are at the start of an rfft and at the end of an irfft
    for transform, axis in steps + of_last if last is fft.irfft else of_last + steps:
        input = _along_one(transform, input, sizes[axis], axis, norm)
    return input


REPLACED: dict[object, Callable[..., Any]] = {
    **dict.fromkeys((fft.fft, fft.ifft, fft.rfft, fft.irfft), _along_one),
    **dict.fromkeys(_ALONG_SEVERAL, _along_several),
    torch.complex: lambda _, real, imag: Spectrum(real, imag),
    torch.polar: lambda _, abs, angle: Spectrum(abs * angle.cos(), abs * angle.sin()),
    torch.view_as_complex: lambda _, input: Spectrum(*input.unbind(-1)),
}
