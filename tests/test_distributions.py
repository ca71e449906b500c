"""What is published is built and tried: the sdist, and from it the wheel, in an environment alone.

Building takes `hatchling`; the environment sees the packages that secateur needs here, and no
secateur but the wheel's.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from secateur.version import VERSION

ROOT = Path(__file__).parents[1]

FIVE_LINES = """
import torch, secateur
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
pruned, result = secateur.prune(model, 0.5)
engine = secateur.compile(pruned, torch.randn(1, 8), out="net.so")
print(secateur.__file__, result.masks.kept, engine(torch.ones(3, 8).numpy()).shape)
"""


def run(*command: str | Path, folder: Path) -> str:
    """Run a program away from the sources, without what Python's own variables would add."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build an sdist or a wheel of a source tree, with the back end that pyproject.toml names."""
    folder.mkdir()
    code = f"from hatchling.build import *; print(build_{kind}({str(folder)!r}))"
    return folder / run(sys.executable, "-c", code, folder=source).split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of what the sdist holds, as installers make it."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    place = tmp_path_factory.mktemp("dist")
    sdist = built("sdist", ROOT, place / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    return built("wheel", place / sdist.name.removesuffix(".tar.gz"), place / "wheel")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = ROOT / "src"
    kept = {
        path.relative_to(own).as_posix()
        for path in (own / "secateur").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == kept


def test_the_wheel_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", folder=tmp_path)
    binaries = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / f"python{sysconfig.get_config_var('EXE') or ''}"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", where, folder=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"),
        *("--quiet", wheel),
        folder=tmp_path,
    )
    secateur = binaries / "secateur"
    assert run(secateur, "--version", folder=tmp_path).split()[-1] == VERSION
    assert "compile" in run(secateur, "--help", folder=tmp_path)
    place, told = run(python, "-c", FIVE_LINES, folder=tmp_path).split(maxsplit=1)
    assert Path(place).is_relative_to(site)
    assert told.strip() == "32 (3, 4)"  # the first layer stays whole
    assert (tmp_path / "net.so").stat().st_size > 0
