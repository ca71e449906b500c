"""What compiling warns of: it does what was asked, which is hardly what was meant."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.compiler import pipeline
from secateur.export import to_onnx


def test_a_library_beside_a_module_of_its_name_is_warned_of(tmp_path: Path) -> None:
    compiled = pipeline.compile_network(to_onnx(nn.Linear(4, 4), torch.zeros(2, 4)))
    (tmp_path / "net.py").write_text("x = 1")
    with pytest.warns(UserWarning, match=r"net.so is in the way of .*net.py: `import net` now"):
        compiled.write(tmp_path / "net.so")
    code = [sys.executable, "-c", "import net"]  # what it warns of
    assert subprocess.run(code, check=False, cwd=tmp_path, capture_output=True).returncode == 1
    for name in ("other.so", "net.bin"):
        compiled.write(tmp_path / name)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


LAYERS = {
    nn.Linear(4, 4): (2, 4),
    nn.Conv1d(4, 4, 1): (2, 4, 3),
    nn.BatchNorm1d(4): (2, 4, 3),
    nn.LayerNorm(4): (2, 3, 4),
    Recurrent(): (2, 3, 4),
}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_weights_that_are_nan_are_warned_of(layer: nn.Module) -> None:
    layer, shape = layer.eval(), LAYERS[layer]
    content = to_onnx(layer, torch.zeros(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.compile_network(content)
    with torch.no_grad():
        next(layer.parameters()).view(-1)[0] = torch.nan
    content = to_onnx(layer, torch.zeros(shape))
    with pytest.warns(UserWarning, match=r"weights of node .* are NaN, and so is what"):
        pipeline.compile_network(content)
