"""Folders of C: what is replaced is what secateur wrote, and what fails leaves all as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnx_models import model, node
from secateur.compiler import pipeline
from secateur.errors import FileError, SecateurError, UsageError
from test_cli import run
from test_overwriting import tree
from test_toolchain import make, needs_make, write

FOLDER = Path("c")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


NET = model([node("Relu", "x", "y")], {"x": ["N", 4]}).SerializeToString()


def emit(folder: Path = FOLDER, *, force: bool = False) -> None:
    pipeline.emit_c(NET, folder, target="aarch64-linux", force=force)


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "bundle.json").read_text())
    return found


def test_a_folder_as_it_was_written_is_replaced() -> None:
    emit()
    files = {path.as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    listed = manifest()["files"]
    assert files == {f"c/{name}" for name in [*listed, "bundle.json"]}
    for name, digest in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest
    (FOLDER / "README.txt").unlink()  # what is missing is no loss
    emit()
    assert (FOLDER / "README.txt").is_file()
    assert list(Path().iterdir()) == [FOLDER]


MADE = ["main", "main.o", "libsecateur.a", "libsecateur.so", "src/model.o", "src/weights.o"]


@pytest.mark.parametrize("name", MADE)
def test_what_make_makes_does_not_hold_it_up(name: str) -> None:
    emit()
    (FOLDER / name).write_text("made")
    emit()
    assert not (FOLDER / name).exists()


@needs_make
def test_all_that_make_makes_is_known() -> None:
    write(FOLDER, prefix="my")
    make(FOLDER)
    assert (FOLDER / "libmy.so").is_file()
    write(FOLDER, prefix="other")
    assert not (FOLDER / "libmy.so").exists()
    subprocess.run(["make", "-C", "c", "-n"], check=True, capture_output=True)


OTHERS = ["notes.o", "net.so", "liba.a", "src/mine.a", "src/mine.o", "src/main", "src/main.o"]
OTHERS += ["notes.txt", ".git", "src/main.c", "Makefile.old", "model.o", "secateur.o"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_the_user_holds_it_up(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emit()
    (FOLDER / name).write_text("of the user")
    before = tree(FOLDER)
    with pytest.raises(UsageError, match=f"holds {name}, "):
        emit()
    Path("net.onnx").write_bytes(NET)
    command = ["compile", "net.onnx", "--emit", "c", "-o", "c", "--target", "aarch64-linux"]
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 2
    assert name in err
    assert tree(FOLDER) == before
    emit(force=True)
    assert (FOLDER / name).read_text() == "of the user"


@pytest.mark.parametrize("name", ["main.c", "Makefile", "secateur.h", "src/weights.c"])
def test_a_file_that_was_changed_holds_it_up(name: str) -> None:
    emit()
    with (FOLDER / name).open("a") as file:
        file.write("\n")
    before = tree(FOLDER)
    with pytest.raises(UsageError, match=f"its {name} was changed"):
        emit()
    assert tree(FOLDER) == before


def a_link(place: Path) -> None:
    place.symlink_to("/etc/hostname")


def dangling(place: Path) -> None:
    place.symlink_to("nowhere")


@pytest.mark.parametrize("make_it", [a_link, dangling, Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["main", "main.c"])
def test_what_is_no_file_holds_it_up(make_it: Callable[[Path], None], name: str) -> None:
    emit()
    (FOLDER / name).unlink(missing_ok=True)
    make_it(FOLDER / name)
    with pytest.raises(UsageError, match=f"holds {name}, "):
        emit()
    assert os.path.lexists(FOLDER / name)


def listing(**more: Any) -> dict[str, Any]:
    digest = hashlib.sha256(b"years of work").hexdigest()
    files = {"thesis.tex": digest}
    written = {"secateur": "0.2", "prefix": "p", "files": files, "target": "native", "network": {}}
    return written | more


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (listing(), "bundle.json"),
        ({"files": ["thesis.tex", "bundle.json"]}, "bundle.json"),
        (listing(files=["thesis.tex", "bundle.json"]), "0.1.0"),
        (listing(files={"../thesis.tex": ""}), "bundle.json"),
        (listing(files={"main.c": 3}), "bundle.json"),
        (listing(files={}), "thesis.tex"),
        (listing(files={}, prefix="../x"), "bundle.json"),
        (listing(files={}, prefix=3), "bundle.json"),
        (listing(files={}, secateur=None), "bundle.json"),
    ],
)
def test_a_manifest_of_another_makes_no_folder_ours(content: Any, named: str) -> None:
    FOLDER.mkdir()
    (FOLDER / "thesis.tex").write_bytes(b"years of work")
    (FOLDER / "bundle.json").write_text(json.dumps(content))
    before = tree(FOLDER)
    with pytest.raises(UsageError, match=named):
        emit()
    assert tree(FOLDER) == before


def test_a_folder_of_0_1_0_is_replaced_by_force_alone() -> None:
    emit()
    now = manifest()
    names = sorted([*now["files"], "bundle.json"])
    old = {"files": names, "target": now["target"], "network": now["network"]}
    (FOLDER / "bundle.json").write_text(json.dumps(old))
    with pytest.raises(UsageError, match=r"0\.1\.0.*--force"):
        emit()
    emit(force=True)
    emit()
    assert manifest() == now


@pytest.mark.parametrize("force", [False, True])
def test_a_link_in_place_of_src_is_never_written_through(force: bool) -> None:
    outside = Path("outside")
    outside.mkdir()
    (outside / "pool.c").write_text("precious")
    FOLDER.mkdir()
    (FOLDER / "src").symlink_to("../outside")
    before = tree(Path())
    with pytest.raises(UsageError, match="src"):
        emit(force=force)
    assert tree(Path()) == before
    assert (FOLDER / "src").is_symlink()


def test_a_link_in_place_of_a_file_is_replaced_by_force_and_not_followed() -> None:
    Path("mine.c").write_text("precious")
    FOLDER.mkdir()
    (FOLDER / "main.c").symlink_to("../mine.c")
    emit(force=True)
    assert not (FOLDER / "main.c").is_symlink()
    assert Path("mine.c").read_text() == "precious"


@pytest.mark.parametrize("name", ["main.c", "src/weights.c", "src", "bundle.json"])
def test_force_writes_all_or_nothing(name: str) -> None:
    place = FOLDER / name
    place.parent.mkdir(parents=True)
    if name == "src":
        place.write_text("of the user")
    else:
        place.mkdir()
    (FOLDER / "Makefile").write_text("of the user")
    before = tree(FOLDER)
    with pytest.raises(UsageError, match=name):
        emit(force=True)
    assert tree(FOLDER) == before


def failing(at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one of the moves that follow fail; those after it work again."""
    real, moves = Path.rename, []

    def rename(path: Path, to: Path) -> Path:
        moves.append(path)
        if len(moves) == at:
            raise error
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)


ERRORS = [KeyboardInterrupt(), OSError(errno.EBUSY, "Device or resource busy")]


@pytest.mark.parametrize("error", ERRORS, ids=["interrupt", "busy"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_move_that_fails_loses_no_folder(
    at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit()
    (FOLDER / "main.o").write_text("made")
    before = tree(Path())
    failing(at, error, monkeypatch)
    with pytest.raises((FileError, KeyboardInterrupt)):
        emit()
    assert tree(Path()) == before


@pytest.mark.parametrize("error", ERRORS, ids=["interrupt", "busy"])
@pytest.mark.parametrize("at", [2, 3, 4, 12])  # the first writes the folder that is moved from
def test_a_move_that_fails_leaves_no_mixture(
    at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    FOLDER.mkdir()
    for name in ("Makefile", "main.c", "notes.txt"):
        (FOLDER / name).write_text("of the user")
    before = tree(Path())
    failing(at, error, monkeypatch)
    with pytest.raises((FileError, KeyboardInterrupt)):
        emit(force=True)
    assert tree(Path()) == before


@pytest.mark.parametrize("folder", [".", "..", "../here", "sub/..", "../..", "/", ""])
def test_the_current_folder_is_not_replaced(folder: str, here: Path) -> None:
    Path("sub").mkdir()
    before = tree(here.parent)
    with pytest.raises(UsageError, match="current folder"):
        emit(Path(folder))
    assert tree(here.parent) == before


def test_the_current_folder_is_written_into_by_force() -> None:
    emit(Path(), force=True)
    assert Path("src/weights.c").is_file()
    assert not list(Path().glob(".*"))


def test_a_folder_under_another_name_is_replaced() -> None:
    emit(Path("new/sub/c"))
    emit(Path("new/sub/c/src/.."))
    assert list(Path("new/sub").iterdir()) == [Path("new/sub/c")]
    assert list(Path("new").iterdir()) == [Path("new/sub")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into any folder")
def test_a_folder_that_cannot_be_looked_into_stays() -> None:
    emit()
    (FOLDER / "src").chmod(0)
    with pytest.raises(SecateurError, match="c"):
        emit()
    (FOLDER / "src").chmod(0o755)
    shutil.rmtree(FOLDER)
