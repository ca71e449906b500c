"""Engines are right at every batch size, also where a network folds its batch into other axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur

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
