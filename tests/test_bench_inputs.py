"""Inputs of a model that is measured: their shapes, what is drawn, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bench_cases import linear, saved
from secateur.bench import inputs
from secateur.errors import FileError, UsageError


def test_inputs_follow_the_model(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m.onnx",
        [onnx.helper.make_node("Gather", ["w", "ids"], ["y"])],
        {"ids": ("INT64", ["batch", 5]), "mask": ("BOOL", ["batch", 5]), "w": ("FLOAT", [2, 3])},
        {"w": np.zeros((2, 3), np.float32)},
    )
    given = inputs.of_onnx(path, {})
    assert [(i.name, i.dtype, i.shape) for i in given] == [
        ("ids", "int64", ("batch", 5)),
        ("mask", "bool", ("batch", 5)),
    ]
    drawn = inputs.draw(given, 3)
    assert drawn["ids"].dtype == np.int64
    assert set(np.unique(drawn["ids"])) == {0, 1}  # within any table of embeddings
    assert drawn["mask"].shape == (3, 5)
    assert inputs.axes(given, 3) == {"batch": 3}
    np.testing.assert_array_equal(drawn["ids"], inputs.draw(given, 3)["ids"])


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = saved(tmp_path / "m.onnx", [node], {"x": ("FLOAT", [2, 3])}, {})
    given = inputs.of_onnx(path, {})
    assert inputs.draw(given, 2)["x"].shape == (2, 3)
    with pytest.raises(UsageError, match=r"fixed at 2.*--batch 2"):
        inputs.draw(given, 64)


def test_inputs_without_axes_make_one_sample(tmp_path: Path) -> None:
    given = (inputs.Input("rate", "float32", ()),)
    for alone in (given, ()):
        assert inputs.extent(inputs.draw(alone, 1)) == 1
        with pytest.raises(UsageError, match=r"no input of this network has an axis.*--batch 1"):
            inputs.draw(alone, 2)
    beside = (*given, inputs.Input("x", "float32", ("n", 3)))
    assert inputs.extent(inputs.draw(beside, 5)) == 5


def test_another_dynamic_axis_must_be_fixed(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = saved(tmp_path / "m.onnx", [node], {"x": ("FLOAT", ["n", "length"])}, {})
    with pytest.raises(UsageError, match=r"--input-shape x="):
        inputs.of_onnx(path, {})
    with pytest.raises(UsageError, match=r"has 2 axes"):
        inputs.of_onnx(path, {"x": (1, 7, 7)})
    given = inputs.of_onnx(path, {"x": (1, 7)})
    assert inputs.draw(given, 2)["x"].shape == (2, 7)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff not protobuf")
    with pytest.raises(FileError, match=r"is it an ONNX file"):
        inputs.of_onnx(path, {})


def test_external_weights_count_as_the_models_size(tmp_path: Path) -> None:
    model = linear(tmp_path)
    assert inputs.onnx_bytes(model) == model.stat().st_size
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save(
        onnx.load(model),
        apart / "m.onnx",
        save_as_external_data=True,
        location="w",
        size_threshold=0,
    )
    files = [apart / "m.onnx", apart / "w"]
    assert inputs.onnx_bytes(files[0]) == sum(file.stat().st_size for file in files)
