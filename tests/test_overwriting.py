"""What is written never takes the place of a user's file that is something else, unasked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur
from onnx_models import model, node
from secateur.compiler import artifact, pipeline, targets
from secateur.errors import FileError, SecateurError, UsageError
from test_cli import QUICK, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network in a folder of its own, which is the current one."""
    path = tmp_path / "here" / "net.onnx"
    path.parent.mkdir()
    onnx.save(model([node("Relu", "x", "y")], {"x": ["N", 4]}), path)
    monkeypatch.chdir(path.parent)
    return path


def no_work(*given: object, **more: object) -> None:
    raise AssertionError("the work was begun")


def tree(folder: Path) -> dict[str, bytes | str]:
    """Return all that a folder holds."""
    return {
        str(path.relative_to(folder)): "folder" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_fifo()
    }


def same(net: Path) -> Path:
    return net


def roundabout(net: Path) -> Path:
    return net.parent / ".." / "here" / "net.onnx"


def hard_link(net: Path) -> Path:
    os.link(net, "hard.so")
    return Path("hard.so")


def symbolic_link(net: Path) -> Path:
    Path("soft.so").symlink_to(net)
    return Path("soft.so")


def link_to_its_folder(net: Path) -> Path:
    Path("way").symlink_to(net.parent)
    return Path("way") / "net.onnx"


def its_weights(net: Path) -> Path:
    Path("net.onnx.data").write_bytes(b"weights beside the model")
    return Path("net.onnx.data")


def notes(net: Path) -> Path:
    Path("notes.txt").write_text("of the user")
    return Path("notes.txt")


def empty(net: Path) -> Path:
    Path("empty").touch()
    return Path("empty")


def a_library(net: Path) -> Path:
    Path("net.so").write_bytes(b"\x7fELF" + bytes(60) + b"secateur engine, nearly")
    return Path("net.so")


def ends_as_an_engine(net: Path) -> Path:
    Path("net.so").write_bytes(b"years of work" * 9 + artifact.MAGIC)
    return Path("net.so")


def nearly_an_engine(net: Path) -> Path:
    """A file whose lengths fit, but whose description is none."""
    lengths = (100).to_bytes(8, "little") + (9).to_bytes(8, "little")
    Path("net.so").write_bytes(bytes(100) + b'{"a": 12}' + lengths + bytes(32) + artifact.MAGIC)
    return Path("net.so")


def link_to_another(net: Path) -> Path:
    Path("real.so").write_bytes(b"of the user")
    Path("link.so").symlink_to("real.so")
    return Path("link.so")


def its_folder(net: Path) -> Path:
    return net.parent


def a_study(net: Path) -> Path:
    Path("study/records").mkdir(parents=True)
    Path("study/spec.json").write_text("{}")
    return Path("study")


def a_pipe(net: Path) -> Path:
    os.mkfifo("pipe")
    return Path("pipe")


PLACES = [same, roundabout, hard_link, symbolic_link, link_to_its_folder, its_weights, notes]
PLACES += [empty, a_library, ends_as_an_engine, nearly_an_engine, link_to_another]
NO_FILES = [its_folder, a_study, a_pipe]


@pytest.mark.parametrize("place", PLACES + NO_FILES)
def test_an_engine_takes_no_other_files_place(
    place: Callable[[Path], Path], net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = place(net)
    before = tree(net.parent)
    monkeypatch.setattr(pipeline, "prepare", no_work)
    code, _, err = run(["compile", str(net), "-o", str(out)], monkeypatch, capsys)
    assert code == 2
    assert str(out) in err.replace("\n", "")
    with pytest.raises(UsageError, match=out.name):
        secateur.compile(net, out=out)
    assert tree(net.parent) == before


@pytest.mark.parametrize("place", PLACES)
def test_with_force_it_does(
    place: Callable[[Path], Path], net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = place(net)
    code, _, err = run(["compile", str(net), "-o", str(out), "--force"], monkeypatch, capsys)
    assert code == 0, err
    x = np.array([[-1, 0, 1, 2]], np.float32)
    assert (secateur.Engine.load(out)(x) == np.maximum(x, 0)).all()


@pytest.mark.parametrize("place", NO_FILES)
def test_no_force_makes_a_file_of_what_is_none(
    place: Callable[[Path], Path], net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = place(net)
    before = tree(net.parent)
    code, _, _ = run(["compile", str(net), "-o", str(out), "--force"], monkeypatch, capsys)
    assert code == 2
    assert tree(net.parent) == before


def test_an_earlier_engine_is_replaced(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    secateur.compile(net, out="net.so", name="first")
    secateur.compile(net, out="net.so", name="second")
    assert secateur.Engine.load("net.so").info["name"] == "second"
    assert run(["compile", str(net)], monkeypatch, capsys)[0] == 0
    assert secateur.Engine.load("net.so").info["name"] == "net"


def test_an_engine_of_a_later_version_and_one_that_is_damaged_are_replaced(net: Path) -> None:
    for old, new in ((b'"format":1', b'"format":7'), (b"secateur", b"secatour")):
        secateur.compile(net, out="net.so")
        content = Path("net.so").read_bytes()
        assert old in content
        Path("net.so").write_bytes(content.replace(old, new, 1))
        Path("net.so").chmod(0o444)
        secateur.compile(net, out="net.so", name="again")
        assert secateur.Engine.load("net.so").info["name"] == "again"


def test_a_compiled_network_is_written_with_the_same_care(net: Path) -> None:
    compiled = pipeline.compile_network(net)
    before = net.read_bytes()
    for out in (net, str(net)):
        with pytest.raises(UsageError, match=r"net\.onnx"):
            compiled.write(out)
    assert net.read_bytes() == before
    compiled.write("net.so")
    compiled.write(net, force=True)
    assert net.read_bytes() == Path("net.so").read_bytes()


def test_a_folder_that_is_missing_is_told_before_any_work(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(pipeline, "prepare", no_work)
    code, _, err = run(["compile", str(net), "-o", "no/net.so"], monkeypatch, capsys)
    assert code == 1
    assert "no/net.so" in err
    with pytest.raises(FileError, match=r"no/net\.so"):
        secateur.compile(net, out="no/net.so")


def holds_it(net: Path) -> Path:
    return net.parent


def holds_it_deep(net: Path) -> Path:
    return net.parent.parent


def leads_to_it(net: Path) -> Path:
    Path("../way").symlink_to(net.parent)
    return Path("../way")


def its_src(net: Path) -> Path:
    """A folder of C that the network was put into, under a name that `make` could have made."""
    pipeline.emit_c(net, Path("c"))
    net.rename("c/src/net.o")
    return Path("c")


@pytest.mark.parametrize("place", [holds_it, holds_it_deep, leads_to_it, same, notes, a_study])
def test_a_folder_of_c_takes_no_others_place(
    place: Callable[[Path], Path], net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = place(net)
    before = tree(net.parent.parent)
    monkeypatch.setattr(pipeline, "prepare", no_work)
    command = ["compile", str(net), "--emit", "c", "-o", str(out)]
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 2
    assert str(out) in err.replace("\n", "")
    with pytest.raises(UsageError):
        pipeline.emit_c(net, out)
    assert tree(net.parent.parent) == before


def test_a_network_inside_a_folder_of_c_stays(net: Path) -> None:
    folder = its_src(net)
    before = tree(folder)
    for given in (folder / "src" / "net.o", before["src/net.o"]):
        with pytest.raises(UsageError, match=r"net\.o"):
            pipeline.emit_c(given, folder)
        assert tree(folder) == before


def test_with_force_a_folder_of_c_keeps_what_else_is_there(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("Makefile").write_text("of the user")
    Path("notes.txt").write_text("of the user")
    before = net.read_bytes()
    command = ["compile", "net.onnx", "--emit", "c", "-o", ".", "--force"]
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert Path("notes.txt").read_text() == "of the user"
    assert net.read_bytes() == before
    assert Path("Makefile").read_text() != "of the user"
    assert Path("src/weights.c").is_file()
    assert not list(Path().glob(".*"))


def test_with_force_a_folder_still_takes_no_files_place(net: Path) -> None:
    Path("c").write_text("of the user")
    with pytest.raises(UsageError, match="c is a file"):
        pipeline.emit_c(net, Path("c"), force=True)
    assert Path("c").read_text() == "of the user"


@pytest.mark.parametrize("target", ["native", *targets.CROSS])
@pytest.mark.parametrize("emit", ["library", "c"])
def test_a_cross_target_stands_in_the_default_name(
    target: str, emit: str, net: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    written: list[str] = []

    def compiled(source: object, **options: Any) -> pipeline.Compiled:
        goal = pipeline.toolchain.target(options["target"])
        return pipeline.Compiled(b"", None, goal, None, 0, 0)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "compile_network", compiled)
    monkeypatch.setattr(pipeline, "emit_c", lambda source, folder, **_: written.append(str(folder)))
    command = ["compile", "net.onnx", "--target", target, "--emit", emit]
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    ending = "" if target == "native" else f".{target}"
    if emit == "library":
        ending += pipeline.toolchain.target(target).suffix
        written = [path.name for path in Path().iterdir() if path != Path("net.onnx")]
    assert written == [f"net{ending}"]


def linear() -> nn.Module:
    return nn.Linear(4, 4)


def save_model(path: Path, **more: bool) -> None:
    secateur.save(linear(), path, **more)


def save_masks(path: Path, **more: bool) -> None:
    model = linear()
    plan = secateur.prunable(model, include_first=True)
    secateur.prune(model, 0.5, plan=plan)[1].masks.save(path, **more)


def save_onnx(path: Path, **more: bool) -> None:
    secateur.export_onnx(linear(), torch.zeros(1, 4), path, **more)


WRITERS = [save_model, save_masks, save_onnx]


def of_torch(path: Path) -> None:
    torch.save(linear().state_dict(), path)


def plain_safetensors(path: Path) -> None:
    save_file(linear().state_dict(), path)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "other",
    [of_torch, plain_safetensors, lambda path: path.write_text("of the user"), *WRITERS],
    ids=["torch", "safetensors", "text", "model", "masks", "onnx"],
)
def test_a_saved_file_takes_only_the_place_of_its_kind(
    write: Callable[..., None], other: Callable[[Path], Any], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    other(path)
    before = path.read_bytes()
    if other is write:
        write(path)
        return
    with pytest.raises(UsageError, match=str(path)):
        write(path)
    assert path.read_bytes() == before
    write(path, force=True)
    assert path.read_bytes() != before
    write(path)


@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_is_named_as_one(write: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write(tmp_path)
    with pytest.raises(SecateurError, match="cannot write"):
        write(tmp_path / ("n" * 300))
    with pytest.raises(UsageError, match="path"):
        write(f"{tmp_path}/a\0b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["results.csv", "report.html", "table.tex", "curve.svg", "curve.pdf", "latency.png"]
)
def test_a_study_replaces_no_file_of_its_folders_owner(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / name).write_text("of the user")
    command = ["study", *QUICK, "--out", str(tmp_path)]
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 2
    assert name in err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "of the user"
