"""The whole way: from a network to an engine, a folder of C, another machine's program."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import kernel_harness
import secateur
from mixed_network import Mixed
from secateur.compiler import artifact, choice, pipeline, toolchain, verification
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.errors import CompileError, UsageError
from secateur.export import to_onnx
from test_cli import QUICK, run

pytestmark = pytest.mark.usefixtures("as_shipped")


def pruned(module: nn.Module, keep: float = 0.2) -> nn.Module:
    names = secateur.prunable(module, include_first=True).names
    scores = {n: p.detach().abs() for n, p in module.named_parameters() if n in names}
    secateur.select(scores, secateur.Budget(keep)).apply(module)
    return module.eval()


def convnet() -> nn.Module:
    """Planes from large to a single position, so that every way to run a layer is taken.

    Most work is on small ones, so that samples side by side gain.
    """
    torch.manual_seed(0)
    return pruned(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    )


def blocks() -> nn.Module:
    """Linear layers of which sixteen outputs at a time read the same inputs."""
    torch.manual_seed(0)
    layers = (nn.Linear(192, 160), nn.ReLU(), nn.Linear(160, 10))
    net = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), *layers)
    plan = secateur.prunable(net, include_first=True)
    return secateur.prune(net, 0.1, pattern="16x1", plan=plan)[0].eval()


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return pruned(Mixed())


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, 32, 32)).astype(np.float32)


def of_torch(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


def assert_close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max(initial=0) <= tolerance * np.abs(wanted).max(initial=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_engine_agrees_with_torch_for_every_batch(threads: int) -> None:
    module = convnet()
    with secateur.compile(module, torch.zeros(2, 3, 32, 32), threads=threads) as engine:
        for count in (1, 2, 15, 16, 17, 40):
            assert_close(engine(images(count)), of_torch(module, images(count)))
        assert engine(images(0)).shape == (0, 10)


@pytest.mark.parametrize(("values", "tolerance"), [("fp16", 5e-3), ("bf16", 5e-2)])
def test_weights_of_sixteen_bits(values: str, tolerance: float) -> None:
    module = convnet()
    content = to_onnx(module, torch.zeros(2, 3, 32, 32))
    compiled = pipeline.compile_network(content, values=values)
    with compiled.engine() as engine:
        assert_close(engine(images(20)), of_torch(module, images(20)), tolerance)
    assert len(compiled.content) < len(pipeline.compile_network(content).content)


def test_tuning_gives_the_same_network() -> None:
    module = convnet()
    with secateur.compile(module, torch.zeros(2, 3, 32, 32), tune=True) as engine:
        assert_close(engine(images(3)), of_torch(module, images(3)))


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 9, 3, padding=1), nn.Linear(64, 33)])
def test_infinities_stay_what_they_are(layer: nn.Module) -> None:
    """Rows that are made even must not multiply an infinity by a zero of their own."""
    shape = (6, 4, 4) if isinstance(layer, nn.Conv2d) else (64,)
    with torch.no_grad():
        weight = torch.zeros(len(layer.weight), layer.weight[0].numel())
        weight[:, 4::11][:, :3] = 1.0  # three in each row; one is the middle of a window
        layer.weight.copy_(weight.reshape(layer.weight.shape))
    x = np.full((70, *shape), np.inf, np.float32)
    with secateur.compile(layer.eval(), torch.zeros(2, *shape)) as engine:
        (kernel,) = {step["kernel"] for step in engine.info["steps"][0] if "kernel" in step}
        assert kernel == "sparse"
        for count in (1, 70):  # one position a sample, and tiles of samples
            assert (engine(x[:count]) == np.inf).all()


def test_layers_of_one_shape_share_their_code() -> None:
    module = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5))).eval()
    content = to_onnx(module, torch.zeros(2, 8, 12, 12))
    compiled = pipeline.compile_network(content)  # verified
    assert len(compiled.source.network["steps"][0]) >= 5
    one = compiled.source.model.split("p1_step0")[0]
    assert 0 < len(re.findall(r"sec_(?:dense|sparse)_layer\(", one)) < 5


def test_tuning_tries_tiles_of_several_sizes() -> None:
    target = toolchain.native()
    content = to_onnx(convnet(), torch.zeros(2, 3, 32, 32))
    network = prepare(content, kernel_harness.machine())
    usual = choice.sums(network.graphs[0], network.machine)
    tuned = pipeline.tuned(network, "net", target).sparse
    assert tuned.keys() == usual.keys()
    for layer, most in tuned.items():
        assert most in {int(times * usual[layer]) for times in pipeline.TUNED}


def test_running_an_engine_needs_no_torch_and_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    module = convnet()
    secateur.compile(module, torch.zeros(2, 3, 32, 32), out=path)
    code = (
        "import sys, numpy, secateur\n"
        f"engine = secateur.Engine.load({str(path)!r})\n"
        "print(engine(numpy.ones((1, 3, 32, 32), numpy.float32)).shape)\n"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules or 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(1, 10)\n"), done.stderr


def test_the_command_compiles_and_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = convnet()
    Path("net.onnx").write_bytes(to_onnx(module, torch.zeros(2, 3, 32, 32)))
    code, out, err = run(["compile", "net.onnx"], monkeypatch, capsys)
    assert code == 0, err
    assert "net.so: " in out
    assert "verified: within" in out
    assert_close(secateur.Engine("net.so")(images(1)), of_torch(module, images(1)))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_folder_of_c_builds_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = convnet()
    Path("net.onnx").write_bytes(to_onnx(module, torch.zeros(2, 3, 32, 32)))
    code, _, err = run(["compile", "net.onnx", "--emit", "c", "-o", "c"], monkeypatch, capsys)
    assert code == 0, err
    subprocess.run(["make", "-C", "c"], check=True, capture_output=True)
    example = Path("c", "main")
    assert_close(of_program([str(example.resolve())], 3), of_torch(module, images(3)))


def of_program(command: Sequence[str], count: int) -> np.ndarray:
    done = subprocess.run(
        [*command, str(count)], input=images(count).tobytes(), capture_output=True, check=True
    )
    return np.frombuffer(done.stdout, np.float32).reshape(count, 10)


@pytest.mark.parametrize(
    ("target", "runner"),
    [("aarch64-linux", "qemu-aarch64-static"), ("wasm32-wasi", "node")],
)
@pytest.mark.parametrize("network", [convnet, mixed, blocks])
def test_other_machines_give_the_same(
    network: Callable[[], nn.Module], target: str, runner: str, tmp_path: Path
) -> None:
    pytest.importorskip("ziglang")
    if shutil.which(runner) is None:
        pytest.skip(f"needs {runner}")
    module = network()
    goal = toolchain.target(target)
    compiled = pipeline.compile_network(to_onnx(module, torch.zeros(2, 3, 32, 32)), target=target)
    assert compiled.difference is None
    assert artifact.read(compiled.content).target == target
    source = compiled.source
    assert (network is blocks) == ("sec_blocked_layer(s" in source.model)
    program = tmp_path / "main"
    program.write_bytes(
        toolchain.build(
            {"model.c": source.model}, source.stored, source.network, goal, program=True
        )
    )
    program.chmod(0o755)
    command = [runner, str(program)]
    if runner == "node":
        script = tmp_path / "run.mjs"
        script.write_text(
            'import { readFileSync } from "node:fs"; import { WASI } from "node:wasi";\n'
            "const [, , file, ...rest] = process.argv;\n"
            'const wasi = new WASI({ version: "preview1", args: ["main", ...rest] });\n'
            "const module = await WebAssembly.compile(readFileSync(file));\n"
            "const made = await WebAssembly.instantiate(module, wasi.getImportObject());\n"
            "process.exitCode = wasi.start(made);\n"
        )
        command = ["node", "--no-warnings", str(script), str(program)]
    with secateur.compile(module, torch.zeros(2, 3, 32, 32)) as engine:
        assert_close(engine(images(6)), of_torch(module, images(6)))
        for count in (1, 6):
            assert_close(of_program(command, count), engine(images(count)))


def test_a_study_is_compiled_at_any_keep_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(["study", *QUICK, "--out", "study"], monkeypatch, capsys)
    assert code == 0, err
    code, _, err = run(["compile", "study", "--keep", "0.25", "-o", "cut.so"], monkeypatch, capsys)
    assert code == 0, err
    engine = secateur.Engine("cut.so")
    layers = [step for step in engine.info["steps"][0] if "nonzeros" in step]
    study = secateur.Study(
        secateur.classification("digits", "mlp"),
        keep=(0.5,), seeds=1, epochs=1, gate_epochs=1, calibration=64, out="study", device="cpu",
    )  # fmt: skip
    module = study.network(0.25)
    kept = sum(int((p != 0).sum()) for p in module.parameters() if p.ndim > 1)
    assert sum(layer["nonzeros"] for layer in layers) == kept
    shape = engine.info["inputs"][0]["shape"]
    x = np.random.default_rng(0).random((5, *shape), np.float32)
    assert_close(engine(x), of_torch(module, x))
    words = "compile study --keep 0.25 -o other.so --criterion magnitude --recovery batchnorm"
    assert run(words.split(), monkeypatch, capsys)[0] == 0
    wanted = of_torch(study.network(0.25, criterion="magnitude", recovery="batchnorm"), x)
    assert_close(secateur.Engine("other.so")(x), wanted)
    assert np.abs(wanted - of_torch(study.network(0.25, criterion="magnitude"), x)).max() > 0.01


def mixing() -> onnx.ModelProto:
    """A network in which samples of a batch meet: it cannot be run in tiles."""
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=1),
        helper.make_node("Sub", ["x", "most"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mixing",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def test_a_network_that_mixes_samples_is_refused() -> None:
    with pytest.raises(CompileError, match=r"samples of a batch.*--input-shape"):
        pipeline.compile_network(mixing().SerializeToString())
    with pytest.raises(CompileError, match=r"samples of a batch"):  # before any compiler is called
        pipeline.compile_network(mixing().SerializeToString(), target="riscv64-linux")
    compiled = pipeline.compile_network(mixing().SerializeToString(), input_shapes={"x": (3, 4)})
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with compiled.engine() as engine:
        np.testing.assert_array_equal(engine(x), x - x.max(0))
        with pytest.raises(UsageError, match=r"\[3, 4\]"):
            engine(x[:2])


def test_a_batch_that_fills_no_tile_runs_as_is_cheaper(tmp_path: Path) -> None:
    """Samples side by side gain where zeros are skipped; dense ones cost as much alone."""
    shares = []
    for kept in (0.05, 1.0):
        torch.manual_seed(0)
        layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
        for layer in layers:
            layer.weight.data[torch.rand_like(layer.weight) > kept] = 0
        source = to_onnx(nn.Sequential(*layers).eval(), torch.zeros(2, 64, 8, 8))
        network = prepare(source, kernel_harness.machine())
        library = tmp_path / f"{kept}.engine"
        library.write_bytes(pipeline.compile_network(source).content)
        runs = ctypes.CDLL(str(library)).secateur_program_for
        one, tile = network.loads[0].cycles, network.programs[-1].batch
        least = network.loads[-1].cycles / one if len(network.loads) > 1 else np.inf
        assert [runs(n) for n in range(1, tile + 1)] == [n >= least for n in range(1, tile + 1)]
        shares.append(least / tile)
    assert shares[0] < shares[1]


@pytest.mark.parametrize(("width", "alone"), [(8, True), (160, False)])
def test_a_small_network_is_left_to_one_thread(width: int, alone: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3)).eval()
    network = prepare(to_onnx(module, torch.zeros(2, 3, 32, 32)), Machine(16, 32))
    assert network.loads[0].alone == alone


@pytest.mark.parametrize("full", [True, False])
def test_an_engine_that_is_wrong_is_not_handed_over(full: bool) -> None:
    """Also where only one sample of a tile is, in the full one or in the part of one behind it."""
    module = convnet()
    network = prepare(to_onnx(module, torch.zeros(2, 3, 32, 32)), kernel_harness.machine())
    known = verification.truth(network)
    wrong = 0 if full else network.programs[-1].batch

    def run(given: Mapping[str, np.ndarray]) -> np.ndarray:
        made = of_torch(module, given["input"])
        made[wrong::100] *= 1.01
        return made

    with pytest.raises(CompileError, match=r"differs from the reference by .*nothing was written"):
        verification.verify(network, known, run, "fp32")
    assert (
        verification.verify(network, known, lambda x: of_torch(module, x["input"]), "fp32") < 1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.onnx"], "cannot read nowhere.onnx"),
        (["net.onnx", "--values", "int8"], "fp32, fp16, bf16.*int8"),
        (["net.onnx", "--target", "z80"], "z80.*aarch64-linux"),
        (["net.onnx", "--emit", "rust"], "library or c"),
        (["net.onnx", "--input-shape", "x"], "NAME=1,3,32,32"),
        (["net.onnx", "--keep", "0.5"], "study directory"),
        ([".", "--keep", "0.5"], "holds no study"),
        (["."], "is a folder, and holds no study"),
        (["a study"], "a study is a study: give --keep"),
        (["in C"], "in C is a folder of C, compiled already"),
        (["text.onnx"], "not an ONNX"),
    ],
)
def test_bad_requests_get_one_error_and_write_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(mixing().SerializeToString())
    Path("text.onnx").write_text("hello")
    for held in (Path("a study/spec.json"), Path("in C/bundle.json")):
        held.parent.mkdir()
        held.touch()
    before = sorted(tmp_path.iterdir())
    code, _, err = run(["compile", *arguments], monkeypatch, capsys)
    assert code in (1, 2)
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match=r"install it, or unset CC"):
        secateur.compile(nn.Linear(3, 2), torch.zeros(1, 3), out=tmp_path / "net.so")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_is_named() -> None:
    with pytest.raises(UsageError, match=r"give an example of its input"):
        secateur.compile(nn.Linear(3, 2))
    with pytest.raises(UsageError, match=r"a dict cannot be compiled"):
        secateur.compile({})
    with pytest.raises(CompileError, match=r"Linear fails on the example of its inputs"):
        secateur.compile(nn.Linear(3, 2), torch.zeros(1, 4))


def test_the_table_of_operators_is_current() -> None:
    from secateur.compiler import coverage

    path = Path(__file__).parents[1] / "docs" / "operators.md"
    if f"with onnx {onnx.__version__}. " not in path.read_text():
        pytest.skip(f"the page was written with another onnx than {onnx.__version__}")
    assert path.read_text() == coverage.table(), (
        "docs/operators.md is not what `python -m secateur.compiler.coverage` prints"
    )


def test_info_is_json() -> None:
    with secateur.compile(nn.Linear(3, 2), torch.zeros(1, 3), name="small") as engine:
        info = json.loads(json.dumps(engine.info))
    assert info["name"] == "small"
    assert info["values"] == "fp32"
    assert info["inputs"][0]["shape"] == [3]
