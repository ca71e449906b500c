"""What tests of training in 8 bit share."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import onnx_models as om


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def images(count: int = 48, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *(shape or (3, 8, 8)), generator=generator)


def trained(model: nn.Module, x: Tensor, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train()
    for _ in range(steps):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def gives(content: bytes, x: Tensor) -> np.ndarray:
    proto = onnx.load_from_string(content)
    found: np.ndarray
    (found,) = om.onnxruntime_gives(proto, {proto.graph.input[0].name: x.numpy()}).values()
    return found


def away(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def computed(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        array: np.ndarray = model(x).numpy()
    return array
