"""A wrong engine is refused with the step where that begins; on inputs of one's own, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_models as om
from secateur.compiler import emit, passes, pipeline, plan
from secateur.compiler.graph import Graph
from secateur.errors import CompileError, FileError, UsageError
from test_cli import run

F32 = np.float32
RNG = np.random.default_rng(0)
W = (RNG.standard_normal((4, 3, 3, 3)) / 5).astype(F32)
V = RNG.standard_normal((4, 5)).astype(F32)


def net(first: Any = "N") -> onnx.ModelProto:
    """A convolution, an activation, the mean of planes, a linear layer, an activation."""
    nodes = [
        om.node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        om.node("Sin", "a", "b"),
        om.node("GlobalAveragePool", "b", "c"),
        om.node("Flatten", "c", "d"),
        om.node("MatMul", "d v", "e"),
        om.node("Tanh", "e", "y"),
    ]
    return om.model(nodes, {"x": [first, 3, 8, 8]}, constants={"w": W, "v": V}, opset=18)


def compiled(**options: Any) -> pipeline.Compiled:
    return pipeline.compile_network(net().SerializeToString(), **options)


def break_step(patch: pytest.MonkeyPatch, op: str, old: str, new: str, batch: int = 0) -> None:
    """Let the C of every step with an operator be wrong, or that of larger tiles alone."""
    right = emit._body

    def wrong(planned: Any, program: Any, *more: Any) -> str:
        text = right(planned, program, *more)
        changed = planned.node.op == op and program.batch > batch
        assert not changed or old in text
        return text.replace(old, new) if changed else text

    patch.setattr(emit, "_body", wrong)


@pytest.mark.parametrize("batch", [0, 1])
def test_a_step_whose_c_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Not those behind it, though all of their values are off as well."""
    break_step(monkeypatch, "Sin", "sinf(", "0.25f + sinf(", batch)
    with pytest.raises(CompileError) as refusal:
        compiled()
    said = str(refusal.value)
    assert "differs from the reference by" in said
    assert "it arises in step Sin 'n_b', whose value 'b' is off by up to 0.25 where" in said
    assert said.endswith("please report this network")


def test_a_pass_that_changes_the_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Graph) -> Graph:
        return graph.with_(constants={**graph.constants, "v": 2 * V})

    changed = tuple((name, wrong if name == "pooled" else run) for name, run in passes.PASSES)
    monkeypatch.setattr(passes, "PASSES", changed)
    monkeypatch.setattr(passes.apply, "__defaults__", (changed,))
    match = r"it arises in the pass 'pooled' at MatMul 'n_e', whose value 'e' is off by up to"
    with pytest.raises(CompileError, match=match):
        compiled()


def test_values_that_share_memory_while_both_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the values of all steps are kept, all are right: then it is one after the other."""
    right = plan._allocate

    def wrong(steps: Any, layouts: Any, homes: Any, types: Any) -> Any:
        placed, arena = right(steps, layouts, homes, types)
        if any(step.node.op == "Relayout" and step.node.inputs[0] == "b" for step in steps):
            return placed, arena
        return {
            name: plan.replace(home, offset=0) if home.kind == "arena" else home
            for name, home in placed.items()
        }, arena

    monkeypatch.setattr(plan, "_allocate", wrong)
    with pytest.raises(CompileError, match=r"it arises in step \w+ 'n_[a-e]', whose value"):
        compiled()


X = RNG.standard_normal((5, 3, 8, 8)).astype(F32)


def test_inputs_of_ones_own_are_compared_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compiled(verify_with={"x": X}).own == 5
    np.save("x.npy", X.astype(np.float64))
    np.savez("x.npz", x=X[:1])
    for name in ("x.npy", "x.npz"):
        onnx.save(net(), "net.onnx")
        code, out, err = run(["compile", "net.onnx", "--verify-with", name], monkeypatch, capsys)
        assert code == 0, err
        assert f"{5 if name == 'x.npy' else 1} inputs of yours, too" in " ".join(out.split())
    # what random numbers do not reach: the engine is right but for large ones
    break_step(monkeypatch, "Sin", "sinf(", "(x0 > 900 ? 7 : 1) * sinf(")
    compiled()
    with pytest.raises(CompileError, match=r"a batch of 5 of yours, .* in step Sin 'n_b'"):
        compiled(verify_with=X * 1e4)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"z": X},
            r"verify_with has the names 'z', but the network's inputs are 'x'; use exactly these",
        ),
        ({"x": X[0]}, r"'x' to verify with has shape \[3, 8, 8\], but \[n, 3, 8, 8\] is needed"),
        (X.astype(np.int64), r"'x' to verify with has dtype int64, but float32 is needed"),
        (X[:0], r"holds samples: 0 of 'x'; give as many of each, at least one"),
    ],
)
def test_what_cannot_be_verified_with(given: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        compiled(verify_with=given)


def test_batches_and_targets_that_do_not_fit(tmp_path: Path) -> None:
    fixed = net(6).SerializeToString()
    with pytest.raises(UsageError, match=r"holds 5 samples, but the file fixes a batch of 6"):
        pipeline.compile_network(fixed, verify_with=X)
    assert pipeline.compile_network(fixed, verify_with=np.concatenate([X, X, X[:2]])).own == 12
    with pytest.raises(UsageError, match=r"that for wasm32-wasi is not run here"):
        compiled(verify_with=X, target="wasm32-wasi")
    with pytest.raises(FileError, match=r"there is no file .*inputs to verify with"):
        compiled(verify_with=tmp_path / "none.npz")
