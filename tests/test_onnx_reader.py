"""ONNX files are read whole, in their newest form, or refused with one clear error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_models as om
from secateur.compiler import interpreter, onnx_reader, passes
from secateur.errors import CompileError, UsageError

F32 = np.float32


# What is read.


def test_a_model_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "linear.onnx"
    onnx.save(om.linear(), path)
    model = onnx_reader.read(path)
    assert (model.batched, model.opset) == (True, 21)
    assert (model.graph.inputs, model.graph.outputs) == (("x",), ("y",))
    assert model.graph.types["x"].shape == (1, 3)
    assert om.ops(model.graph) == ["MatMul", "Relu"]
    assert [str(node) for node in model.graph.nodes] == ["MatMul 'n_t'", "Relu 'n_y'"]
    np.testing.assert_array_equal(model.graph.constants["w"], om.WEIGHTS)


def test_reading_does_not_import_torch() -> None:
    code = (
        "import sys; from secateur.compiler import onnx_reader, passes, interpreter; "
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CompileError, match="pip install onnx"):
        onnx_reader.read(b"")


def test_nodes_may_come_in_any_order() -> None:
    proto = om.linear()
    proto.graph.node.reverse()
    for one in proto.graph.node:
        one.name = "same"  # names of nodes need not be unique, nor be there
    graph = om.read(proto)
    assert om.ops(graph) == ["MatMul", "Relu"]
    assert len({node.name for node in graph.nodes}) == 2


def test_an_input_with_an_initializer_is_a_constant() -> None:
    proto = om.linear()
    proto.graph.input.append(om.value("w", [3, 4]))
    assert om.read(proto).inputs == ("x",)


@pytest.mark.parametrize("dtype", sorted(map(str, onnx_reader.onnx_tensors.ELEMENT_TYPES.values())))
@pytest.mark.parametrize("raw", [True, False])
def test_constants_of_every_dtype(dtype: str, raw: bool) -> None:
    array = np.array([[0, 1], [3, 100]]).astype(dtype)
    tensor = numpy_helper.from_array(array, "c")
    if not raw:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = helper.make_tensor("c", kind, array.shape, array.ravel())
    proto = om.model([om.node("Identity", "c", "y")], {})
    proto.graph.initializer.append(tensor)
    found = om.read(proto).constants["c"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("flat", [True, False])
def test_a_sparse_constant(flat: bool) -> None:
    places = np.array([1, 6]) if flat else np.array([[0, 1], [1, 2]])
    proto = om.model([om.node("Add", "x s", "y")], {"x": [2, 4]})
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([5, 7], F32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(places.astype(np.int64)))
    sparse.dims.extend([2, 4])
    wanted = np.zeros((2, 4), F32)
    wanted[0, 1], wanted[1, 2] = 5, 7
    np.testing.assert_array_equal(om.read(proto).constants["s"], wanted)
    sparse.dims[1] = 2
    om.refused(proto, CompileError, r"constant 's': an index of a sparse tensor lies outside")


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [
        ({"value": numpy_helper.from_array(om.WEIGHTS)}, om.WEIGHTS),
        ({"value_float": 1.5}, np.array(1.5, F32)),
        ({"value_floats": [1.5, 2.0]}, np.array([1.5, 2], F32)),
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
    ],
)
def test_constant_nodes(attribute: dict[str, Any], wanted: np.ndarray) -> None:
    graph = om.read(om.model([om.node("Constant", "", "y", **attribute)], {}))
    assert not graph.nodes
    assert graph.constants["y"].dtype == wanted.dtype
    np.testing.assert_array_equal(graph.constants["y"], wanted)
    om.refused(
        om.model([om.node("Constant", "", "y", value_string="a")], {}),
        CompileError,
        r"Constant 'n_y' cannot be compiled: a constant of kind value_string",
    )


# Functions and branches.


def test_functions_of_the_model_are_inlined() -> None:
    double = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [om.node("Add", "a a", "b")], [helper.make_opsetid("", 21)]
    )
    four = helper.make_function(
        "mine",
        "Four",
        ["a"],
        ["b"],
        [om.node("Twice", "a", "t", domain="mine"), om.node("Twice", "t", "b", domain="mine")],
        [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    nodes = [om.node("Four", "x", "t", domain="mine"), om.node("MatMul", "t w", "y")]
    proto = om.model(
        nodes,
        {"x": ["N", 3]},
        constants={"w": om.WEIGHTS},
        functions=[double, four],
        opset_imports=imports,
    )
    graph = om.agrees(proto)
    assert om.ops(graph)[:2] == ["Add", "Add"]
    np.testing.assert_array_equal(graph.constants["w"], om.WEIGHTS)
    four.node[0].op_type = "Four"
    proto.functions[1].CopyFrom(four)
    om.refused(proto, CompileError, r"function mine.Four calls itself")


def test_functions_that_grow_without_bound_are_refused() -> None:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("m", 1)]
    functions = [
        helper.make_function(
            "m",
            f"F{level}",
            ["a"],
            ["b"],
            [om.node(f"F{level - 1}" if level else "Neg", "a", "b", domain="m" if level else "")]
            + [om.node(f"F{level - 1}", "a", f"u{i}", domain="m") for i in range(level and 9)],
            imports,
        )
        for level in range(12)
    ]
    proto = om.model(
        [om.node("F11", "x", "y", domain="m")],
        {"x": [2]},
        functions=functions,
        opset_imports=imports,
    )
    om.refused(proto, CompileError, r"expand to more than 1000000 nodes")


def test_operators_that_onnx_defines_by_others_are_expanded() -> None:
    # It leaves its axes to their default.
    proto = om.model([om.node("MeanVarianceNormalization", "x", "y")], {"x": ["N", 4, 3, 3]})
    graph = om.agrees(proto, batch=2)
    assert {"ReduceMean", "Sqrt", "Div"} < set(om.ops(graph))


@pytest.mark.parametrize("answer", [True, False])
def test_a_known_condition_chooses_its_branch(answer: bool) -> None:
    columns = [
        om.node("Shape", "x", "shape", start=1),
        om.node("Constant", "", "three", value_ints=[3 if answer else 4]),
        om.node("Equal", "shape three", "c"),
    ]
    graph = om.agrees(om.if_model(columns))
    assert om.ops(graph) == (["Neg"] if answer else ["Mul", "Neg"])


def test_an_unknown_condition_is_refused() -> None:
    condition = [om.node("Cast", "flag", "c", to=TensorProto.BOOL)]
    proto = om.if_model(condition)
    om.refused(proto, CompileError, r"If 'n_z' cannot be compiled: its condition depends on")
    fixed = {"flag": np.zeros(1, F32)}
    graph = passes.apply(om.read(proto, fixed=fixed), passes.PASSES[:2])
    assert om.ops(graph) == ["Mul", "Neg"]


# Shapes of inputs.


def test_the_batch() -> None:
    model = onnx_reader.read(om.linear().SerializeToString(), batch=16)
    assert model.batched
    assert passes.apply(model.graph).types["y"].shape == (16, 4)
    model = onnx_reader.read(om.linear().SerializeToString(), batch=16, input_shapes={"x": (5, 3)})
    assert not model.batched
    assert model.graph.types["x"].shape == (5, 3)
    with pytest.raises(UsageError, match="a batch of 0"):
        onnx_reader.read(om.linear().SerializeToString(), batch=0)


def two_inputs(x: om.Shape | None, y: om.Shape | None) -> onnx.ModelProto:
    return om.model([om.node("Add", "x y", "z")], {"x": x, "y": y}, "z")


@pytest.mark.parametrize(
    ("shapes", "given", "wanted"),
    [
        ((["N", 3], ["N", 3]), {}, ((4, 3), (4, 3))),
        ((["N", 3], ["M", 3]), {}, ((4, 3), (4, 3))),
        (([None, 3], [None, "W"]), {"y": (-1, 3)}, ((4, 3), (4, 3))),
        ((["N", "W"], ["N", "W"]), {"x": (-1, 5)}, ((4, 5), (4, 5))),
        ((["N", "W"], ["N", "W"]), {"x": (2, 5)}, ((2, 5), (2, 5))),
        ((None, ["N", 3]), {"x": (-1, 3)}, ((4, 3), (4, 3))),
        ((None, ["N", 3]), {"x": (1, 3), "y": (7, 3)}, ((1, 3), (7, 3))),
        (([2, 3], [2, 3]), {}, ((2, 3), (2, 3))),
        (([], [3]), {}, ((), (3,))),
    ],
)
def test_shapes_of_inputs(shapes: Any, given: Any, wanted: Any) -> None:
    graph = om.read(two_inputs(*shapes), input_shapes=given, batch=4)
    assert tuple(graph.types[name].shape for name in graph.inputs) == wanted


@pytest.mark.parametrize(
    ("shapes", "given", "match"),
    [
        (
            (["N", 3], [1, 3]),
            {},
            r"axis 0 of input 'x' is dynamic; .*\{'x': \(1, 3,\)\}.*--input-shape x=1,3",
        ),
        ((["N", 3], ["N", "W"]), {}, r"axis 1 of input 'y' is dynamic; .*--input-shape y=4,32"),
        ((["N", 3], ["N", "N"]), {}, r"axis 1 of input 'y' is tied to the batch"),
        ((None, ["N", 3]), {}, r"input 'x' has no shape; .*--input-shape x=1,3,32,32"),
        (([2, 3], [2, 3]), {"x": (2, 4)}, r"has shape \[2, 3\] in the model, which \[2, 4\]"),
        (([2, 3], [2, 3]), {"x": (2,)}, r"\[2\] does not fit"),
        (([2, 3], [2, 3]), {"x": (-1, 3)}, r"\[-1, 3\] does not fit"),
        ((["N", 3], ["N", 3]), {"x": (2, 3), "y": (1, 3)}, r"'y' has shape \[N, 3\] in the model"),
        ((["N", 3], ["N", 3]), {"x": (2, -1)}, r"negative extent; only the first may be -1"),
        ((["N", 3], ["N", 3]), {"q": (2, 3)}, r"no input 'q'; its inputs are 'x', 'y'"),
    ],
)
def test_shapes_that_cannot_be(shapes: Any, given: Any, match: str) -> None:
    om.refused(two_inputs(*shapes), UsageError, match, input_shapes=given, batch=4)


def test_fixed_inputs_become_constants() -> None:
    proto = two_inputs(["N", 3], [3])
    graph = om.read(proto, fixed={"y": np.ones(3, F32)}, batch=2)
    assert graph.inputs == ("x",)
    assert graph.types["x"].shape == (2, 3)
    om.refused(proto, UsageError, r"no input 'q'", fixed={"q": np.ones(3, F32)})
    om.refused(proto, UsageError, r"'y' takes float32, and .* float64", fixed={"y": np.ones(3)})
    om.refused(proto, UsageError, r"which \[4\] does not fit", fixed={"y": np.ones(4, F32)})


@pytest.mark.parametrize("unknown", ["?", "", "None", "unk__12", "unknown", "*", "-1", -1, -3, 0])
def test_an_extent_that_the_file_does_not_know_is_dynamic_however_it_is_spelt(unknown: Any) -> None:
    """Two of them need not be equal: the spelling is no name."""
    proto = om.model([om.node("Relu", "x", "y")], {"x": ["N", 3, unknown, unknown]})
    for given in ((1, 3, 48, 192), (-1, 3, 48, 192)):
        model = onnx_reader.read(proto.SerializeToString(), input_shapes={"x": given}, batch=4)
        assert model.batched == (given[0] < 0)
        assert model.graph.types["x"].shape == (4 if given[0] < 0 else 1, 3, 48, 192)
    first = om.model([om.node("Relu", "x", "y")], {"x": [unknown, 3, 4]}).SerializeToString()
    assert not onnx_reader.read(first, input_shapes={"x": (2, 3, 4)}).batched
    assert onnx_reader.read(first, input_shapes={"x": (-1, 3, 4)}).batched
    if unknown != 0:  # which may be meant: an empty array
        om.refused(proto, UsageError, r"axis 2 of input 'x' is dynamic; .*-shape x=1,3,32,32")
        assert onnx_reader.read(first, batch=4).batched


def test_a_name_is_a_name() -> None:
    proto = om.model([om.node("Relu", "x", "y")], {"x": ["N", 3, "side", "side"]})
    om.refused(
        proto, UsageError, r"\[1, 3, 48, 192\] does not fit", input_shapes={"x": (1, 3, 48, 192)}
    )


def test_negative_and_huge_shapes() -> None:
    huge = [1 << 20, 1 << 20]
    om.refused(two_inputs(huge, [1]), CompileError, r"more than 2147483647 elements")
    proto = om.linear()
    proto.graph.initializer[0].dims[0] = -3
    om.refused(proto, CompileError, r"constant 'w' has shape \[-3, 4\]: an extent is negative")
    proto.graph.initializer[0].dims[0] = 1 << 62
    om.refused(proto, CompileError, r"constant 'w' has shape .*: more than")
    big = om.model(
        [om.node("Expand", "x s", "y")], {"x": [1]}, constants={"s": np.array([1 << 40, 1 << 40])}
    )
    om.refused(big, CompileError, r"Expand 'n_y' cannot be compiled")


def test_what_is_read_can_be_run() -> None:
    proto = om.linear()
    graph = om.read(proto, batch=2)
    inputs = om.inputs_for(graph)
    om.same(interpreter.run(graph, inputs), om.onnxruntime_gives(proto, inputs))
