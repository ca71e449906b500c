"""Engines are right at every batch size, also where a network folds its batch into other axes."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

import onnx_models as om
import secateur
from secateur.errors import CompileError

pytest.importorskip("onnx")


class Folded(nn.Module):
    """Steps folded into the batch, for linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, x: Tensor) -> Tensor:
        samples, steps, width = x.shape
        return self.layers(x.view(samples * steps, width)).view(samples, steps, width)


class Frames(nn.Module):
    """Frames folded into the batch, for a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        samples, frames = x.shape[:2]
        return self.layer(x.view(samples * frames, 2, 6, 6)).view(samples, frames, 3, 6, 6)


class Recurrent(nn.Module):
    """A recurrent layer, which transposes its input."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(8, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


class Sequence(nn.Module):
    """Attention that has the sequence first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.layer(x, x, x, need_weights=False)[0].transpose(0, 1)


class Sliced(nn.Module):
    """A part of the input, folded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, 1:3, 2:6].reshape(-1, 4)).view(x.shape[0], 2, 6)


MODELS = {
    "folded": (Folded, (5, 8)),
    "frames": (Frames, (2, 2, 6, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 8)),
    "gru": (lambda: Recurrent(nn.GRU), (5, 8)),
    "attention": (Sequence, (5, 8)),
    "sliced": (Sliced, (5, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_batch_size_gives_what_torch_gives(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    engine = secateur.compile(model, torch.randn(4, *shape))
    for batch in (1, 2, 3, 5, 15, 16, 17, 18, 33, 35, 64, 67):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            wanted = model(x)
        assert torch.allclose(torch.from_numpy(engine(x.numpy())), wanted, atol=1e-5), batch


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths, which torch sorts and puts back."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(8, 12, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return rnn.pad_packed_sequence(
            self.layer(packed)[0], batch_first=True, total_length=x.shape[1]
        )[0]


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_sequences_of_several_lengths(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    module = Packed(kind).eval()
    lengths = torch.tensor([3, 6, 1, 4, 6, 2, 5] * 5)
    x = torch.randn(len(lengths), 6, 8)
    with secateur.compile(exported(module, (x[:2], torch.tensor([6, 3])))) as engine:
        for count in (1, 2, 19, 35):
            with torch.no_grad():
                wanted = module(x[:count], lengths[:count]).numpy()
            got = engine(x[:count].numpy(), lengths[:count].numpy())
            np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("free", [True, False])
def test_elements_placed_in_a_batch(free: bool) -> None:
    """Places that the file counts over all samples, and one sample that is told from the others."""

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y[:, 1:3] = self.layer(x[:, 1:3])
            if not free:
                y[1, 2] = 7
            return y

    torch.manual_seed(0)
    module, x = Placed().eval(), torch.randn(3, 5, 8)
    with secateur.compile(exported(module, (x,), free=free)) as engine, torch.no_grad():
        np.testing.assert_allclose(engine(x.numpy()), module(x).numpy(), atol=1e-5)


def exported(module: nn.Module, inputs: tuple[Tensor, ...], *, free: bool = True) -> bytes:
    """Export as torch's older exporter does: its newer one does not know packed sequences."""
    file, names = io.BytesIO(), [f"x{k}" for k in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, file, dynamo=False, opset_version=18, input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names} if free else None,
        )  # fmt: skip
    return file.getvalue()


def test_a_batch_that_is_sorted_is_refused() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x, 0)[0]

    with pytest.raises(CompileError, match=r"output .* of a sample depends on the others"):
        secateur.compile(exported(Sorted(), (torch.randn(3, 1),)))


def test_a_batch_that_is_normalized_by_its_own_statistics_is_refused() -> None:
    node = om.node("BatchNormalization", "x s s s s", "y mean variance", training_mode=1)
    model = om.model([node], {"x": ["N", 3, 4]}, constants={"s": np.ones(3, np.float32)})
    with pytest.raises(CompileError, match=r"samples of a batch meet .*fix the batch"):
        secateur.compile(model.SerializeToString())


class First(nn.Module):
    """At most some samples of a batch."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[: self.count].relu()


@pytest.mark.parametrize("count", [5, 20, 64, 100_000])
def test_a_batch_that_is_cut_off_is_refused(count: int) -> None:
    """Even where no batch that is tried has so many samples."""
    with pytest.raises(CompileError, match=r"samples of a batch meet .*fix the batch"):
        secateur.compile(First(count), torch.randn(2, 6))


def test_a_slice_of_the_whole_batch_is_none() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[0:, :100].relu()

    with secateur.compile(Whole(), torch.randn(2, 6)) as engine:
        assert engine(np.ones((7, 6), np.float32)).shape == (7, 6)
