"""Planes of any extents, through any strides, without being laid out anew more than it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernel_harness import machine
from secateur.compiler.network import Network, prepare
from secateur.compiler.pipeline import compile_network
from secateur.export import to_onnx

pytest.importorskip("onnx")


def conv(channels: tuple[int, int], kernel: int = 3, stride: int = 1) -> nn.Module:
    layer = nn.Conv2d(*channels, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(layer, nn.ReLU())


def planned(module: nn.Module, *shape: int) -> Network:
    return prepare(to_onnx(module.eval(), torch.zeros(1, *shape)), machine())


def laid_out_anew(network: Network) -> int:
    """Return the relayouts of one sample, but for those of the caller's arrays."""
    steps = [step.node.op for step in network.programs[0].steps]
    return steps[1:-1].count("Relayout")


@pytest.mark.parametrize("plane", [(90, 120), (225, 30), (96, 56), (64, 31)])
def test_blocks_stay_whole_through_pools(plane: tuple[int, int]) -> None:
    net = nn.Sequential(
        conv((1, 4)), nn.MaxPool2d(2), conv((4, 4)), nn.MaxPool2d(2), conv((4, 4)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    assert laid_out_anew(planned(net, 1, *plane)) == 0


def test_a_plane_too_small_for_its_strides_is_laid_out_anew_instead() -> None:
    net = nn.Sequential(*(conv((2, 2), stride=2) for _ in range(4)))
    small = planned(net, 2, 22, 22)
    assert laid_out_anew(small) > 0
    first = next(s.node for s in small.programs[0].steps if s.node.op == "FusedConv")
    layout = small.programs[0].layouts[first.outputs[0]]
    assert np.prod(layout.blocks[2:]) * np.prod(layout.grid) <= 1.3 * 11 * 11


class Chains(nn.Module):
    """Several chains of windows, each on planes of its own, random but for a seed."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.planes = [tuple(map(int, rng.integers(5, 45, 2))) for _ in range(count)]
        self.chains = nn.ModuleList(self.chain(rng) for _ in range(count))

    @staticmethod
    def chain(rng: np.random.Generator) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(int(rng.integers(2, 5))):
            kernel, stride = int(rng.choice([1, 3, 5])), int(rng.choice([1, 1, 2, 3]))
            pool = nn.MaxPool2d(kernel, stride, kernel // 2)
            mean = nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
            layers.append([conv((2, 2), kernel, stride), pool, mean][int(rng.integers(3))])
        return nn.Sequential(conv((2, 2)), *layers)

    def forward(self, *planes: Tensor) -> tuple[Tensor, ...]:
        return tuple(chain(x) for chain, x in zip(self.chains, planes, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_any_chain_of_windows_on_any_plane_gives_what_torch_gives(seed: int) -> None:
    torch.manual_seed(seed)
    net = Chains(8, seed).eval()
    planes = [torch.randn(5, 2, *plane) for plane in net.planes]
    content = to_onnx(net, tuple(planes))
    with compile_network(content).engine(threads=2) as engine:
        for batch in (1, 5):
            given = [x[:batch] for x in planes]
            with torch.no_grad():
                wanted = net(*given)
            for got, its in zip(engine(*(x.numpy() for x in given)), wanted, strict=True):
                np.testing.assert_allclose(got, its.numpy(), atol=1e-5)


class Shuffled(nn.Module):
    """Channels of two groups dealt out in turns, as in ShuffleNet, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = conv((3, 12)), conv((12, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = x.view(-1, 2, 6, *x.shape[2:]).transpose(1, 2).reshape(-1, 12, *x.shape[2:])
        return self.after(x)


@pytest.mark.parametrize("plane", [(16, 16), (9, 13), (28, 7)])
def test_axes_that_are_not_cut_are_moved_without_laying_planes_out_anew(
    plane: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    net = Shuffled().eval()
    assert laid_out_anew(planned(net, 3, *plane)) == 0
    x = torch.randn(3, 3, *plane)
    with compile_network(to_onnx(net, x)).engine() as engine, torch.no_grad():
        np.testing.assert_allclose(engine(x.numpy()), net(x).numpy(), atol=1e-5)


def test_planes_turned_on_their_side_are_right() -> None:
    torch.manual_seed(0)
    first, second = conv((2, 3)).eval(), conv((3, 2)).eval()

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).transpose(2, 3))

    net, x = Turned().eval(), torch.randn(2, 2, 14, 9)
    with compile_network(to_onnx(net, x)).engine() as engine, torch.no_grad():
        np.testing.assert_allclose(engine(x.numpy()), net(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("steps", [3, 16, 29, 100])
@pytest.mark.parametrize("width", [5, 16, 40])
def test_tokens_become_rows_whatever_their_number(steps: int, width: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()
    x = torch.randn(19, steps, width)
    with compile_network(to_onnx(net, x)).engine(threads=2) as engine, torch.no_grad():
        for batch in (1, 7, 19):
            wanted = net(x[:batch]).numpy()
            np.testing.assert_allclose(engine(x[:batch].numpy()), wanted, atol=1e-5)
