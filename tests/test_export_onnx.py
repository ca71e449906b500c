"""ONNX files are compared with torch before they are written."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.reference
import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import CompileError, FileError, UsageError
from secateur.export import export_onnx, to_onnx
from secateur.model.inputs import tensors_in


class Several(nn.Module):
    """Tokens and floats in, a dict of floats and class numbers out; one input is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.layer = nn.Linear(4, 3)

    def forward(self, tokens: Tensor, floats: Tensor, ignored: Tensor) -> dict[str, Any]:
        out = self.layer(self.table(tokens).mean(1) + floats)
        return {"out": out, "nothing": None, "best": out.argmax(1)}


@pytest.fixture(params=["onnxruntime", "the reference of onnx"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return tmp_path / "network.onnx"


def test_a_network_is_written_and_equal(path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    model.train()
    model[1].eval()  # as it is fine-tuned with frozen statistics
    x = torch.randn(2, 3, 5, 5)
    assert export_onnx(model, x, path) < 1e-5
    assert [module.training for module in model] == [True, False, True, True]
    run = onnx.reference.ReferenceEvaluator(str(path)).run
    more = torch.randn(7, 3, 5, 5)
    with torch.no_grad():
        wanted = model.eval()(more)
    assert np.allclose(run(None, {"input": more.numpy()})[0], wanted.numpy(), atol=1e-5)


def test_several_inputs_and_outputs(path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.tensor([[0, 4], [3, 3]]), torch.randn(2, 4), torch.ones(2))
    assert export_onnx(Several(), example, path) < 1e-5
    assert path.exists()


class Gives(nn.Module):
    """Gives what a function makes of its input."""

    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(x + 1)


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x,), ["output0"]),
        (lambda x: [x, (2 * x, 3 * x)], ["output0", "output1", "output2"]),
        (lambda x: {"logits": x}, ["logits"]),
        (lambda x: {"b": x, "none": None, "a": {"one": 2 * x}}, ["b", "a_one"]),
        (
            lambda x: {"a.b": x, "a_b": 2 * x, "x": 3 * x, "": 4 * x},
            ["a_b", "a_b_", "x_", "output"],
        ),
        (lambda x: Pair(x, 2 * x), ["left", "right"]),
        (lambda x: (x, {"loss": 2 * x}), ["output0", "loss"]),
    ],
)
def test_outputs_are_called_what_the_model_calls_them(
    made: Callable[[Tensor], Any], names: list[str]
) -> None:
    content = to_onnx(Gives(made), {"x": torch.ones(2, 3)})
    assert [each.name for each in onnx.load_from_string(content).graph.output] == names
    got = secateur.compile(content)({"x": np.zeros((5, 3), np.float32)})
    wanted = [tensor.numpy() for tensor in tensors_in(made(torch.ones(5, 3)))]
    arrays = got if len(names) > 1 else [got]
    assert all(np.array_equal(a, b) for a, b in zip(arrays, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    export_onnx(model, torch.randn(2, 8).to(dtype), path)
    assert path.exists()


class Constant(nn.Module):
    """Takes its scale from the example it was traced with: right for that one alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x[0, 0])


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize("model", [Constant(), Noise()])
def test_a_file_that_differs_is_not_written(model: nn.Module, path: Path) -> None:
    with pytest.raises(CompileError, match=r"differs from torch by .* in output 0"):
        export_onnx(model, torch.ones(2, 3), path)
    assert not list(path.parent.iterdir())
    export_onnx(nn.Linear(3, 2), torch.ones(1, 3), path)
    before = path.read_bytes()
    with pytest.raises(CompileError, match="nothing was written"):
        export_onnx(model, torch.ones(2, 3), path)
    assert path.read_bytes() == before
    export_onnx(model, torch.ones(2, 3), path, tolerance=1e3)
    assert path.read_bytes() != before


def test_what_cannot_be_compared_is_refused(path: Path) -> None:
    class Text(nn.Module):
        def forward(self, x: Tensor) -> tuple[None, str]:
            return None, "text"

    with pytest.raises(CompileError, match="tuple without a tensor"):
        export_onnx(Text(), torch.ones(2), path)
    with pytest.raises(UsageError, match=r"example is of type list, but must be .* a tensor"):
        export_onnx(nn.Linear(2, 2), [], path)
    with pytest.raises(FileError, match="cannot write"):
        export_onnx(nn.Linear(2, 2), torch.ones(1, 2), path / "no" / "folder")
    assert not list(path.parent.iterdir())


def test_without_onnx_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CompileError, match="pip install"):
        export_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "network.onnx")


def test_a_failed_export_says_in_two_lines_what_to_change(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Curved(nn.Module):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return torch.special.bessel_j0(x) * scale

    with pytest.raises(CompileError) as refusal:
        to_onnx(Curved(), torch.zeros(2, 4))
    what, change = str(refusal.value).split("\n")
    assert what.startswith("torch cannot export Curved to ONNX: Exporting the operator 'aten::spec")
    assert change.startswith(
        "write what aten::special_bessel_j0 does with operations that ONNX has"
    )
    with pytest.raises(CompileError) as refusal:
        to_onnx(Curved(), {"y": torch.zeros(2, 4)})
    what, change = str(refusal.value).split("\n")
    assert what.startswith("Curved fails on the example of its inputs, y: float32 [2, 4]: ")
    assert change.endswith("by the names of forward's: x, scale")
    assert capfd.readouterr().out == ""  # torch would print the whole graph


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.AdaptiveAvgPool1d(3), (2, 4, 7)),
        (nn.AdaptiveAvgPool2d((3, None)), (2, 4, 7, 5)),
        (nn.AdaptiveAvgPool2d(6), (2, 4, 9, 7)),
        (nn.AdaptiveAvgPool2d(2), (2, 4, 8, 6)),
        (nn.AdaptiveAvgPool2d(5), (2, 4, 3, 5)),  # it may grow, too
        (nn.AdaptiveAvgPool3d((2, 3, 4)), (2, 3, 5, 7, 4)),
    ],
)
def test_pools_to_a_size_that_does_not_divide(
    pool: nn.Module, shape: tuple[int, ...], path: Path
) -> None:
    assert export_onnx(pool, torch.randn(shape), path) < 1e-5
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert ("AveragePool" in operators) == (shape == (2, 4, 8, 6))


class Counts(nn.Module):
    """Writes the number of its samples into a shape, or gives the axis to the shape."""

    def __init__(self, *, plain: bool) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x) if self.plain else x.shape[0], 2, -1).mean(1)


@pytest.mark.parametrize("plain", [True, False])
def test_a_batch_that_code_writes_into_shapes_is_that_of_the_file(plain: bool) -> None:
    content = to_onnx(Counts(plain=plain), torch.randn(3, 6))
    first = onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim[0]
    assert (first.dim_value, first.dim_param) == ((3, "") if plain else (0, "batch"))


def test_what_torch_cannot_export_is_one_sentence(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CompileError, match="torch cannot export Bilinear to ONNX"):
        export_onnx(nn.Bilinear(2, 3, 4), (torch.randn(2, 2), torch.randn(2, 3)), path)
    assert capfd.readouterr() == ("", "")


class Spans(nn.Module):
    """Takes spans, whose ends are not before their starts."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths = nn.Embedding(4, 3)

    def forward(self, spans: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lengths(spans[:, 1] - spans[:, 0])
        return found


def test_random_inputs_that_a_model_does_not_take_are_left_out(path: Path) -> None:
    export_onnx(Spans(), torch.tensor([[0, 3], [5, 8], [20, 22], [31, 31]]), path)
    assert path.exists()
    with pytest.raises(CompileError, match="fails on the example"):
        export_onnx(Spans(), torch.tensor([[3, 0]]), path)
