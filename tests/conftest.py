"""Shared by all tests: a small task, quiet torch, a compiler in a hurry, a browser."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace

import hypothesis
import pytest
import torch

from compiler_cache import CompilerCache
from report_browser import Browser, start
from secateur.compiler import toolchain
from secateur.study import report
from secateur.study.task import Task, classification
from secateur.terminal import printing

# Deterministic, and without a deadline: these machines are shared, and slow for moments.
hypothesis.settings.register_profile("secateur", deadline=None, derandomize=True)
hypothesis.settings.register_profile(
    "long",
    deadline=None,
    derandomize=False,
    print_blob=True,
    # a test in a class is another object in each of its turns
    suppress_health_check=[hypothesis.HealthCheck.differing_executors],
)
hypothesis.settings.load_profile("secateur")

TURNS = 10
"""How often a test draws all its examples in the profile "long", other ones each time."""

FULL, PLAIN = toolchain.OPTIMIZE, toolchain._Runner.__call__


@pytest.fixture(scope="session", autouse=True)
def _wide_terminal() -> None:
    """A terminal of 200 letters a line; consoles are made once, and keep the width they had."""
    printing.out.width = printing.err.width = 200


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread: the nets of the tests are too small to gain from two."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _compile_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile with less effort, and the same C once, in this run and the next.

    `pytest --cache-clear` forgets what was compiled.
    """
    folder = request.config.cache.mkdir("compiled")  # type: ignore[union-attr]
    kept = CompilerCache(folder, PLAIN)

    def run(runner: toolchain._Runner, arguments: Sequence[str]) -> str:
        return kept(runner, arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "OPTIMIZE", "-O1")
        patch.setattr(toolchain._Runner, "__call__", run)
        yield


@pytest.fixture(scope="module")
def as_shipped() -> Iterator[None]:
    """Compile with all effort, as users do: where code is timed, or its flags matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "OPTIMIZE", FULL)
        yield


@pytest.fixture(scope="module")
def barely_optimised() -> Iterator[None]:
    """Compile in half the time, where code is many small steps: that of tiles takes longer so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "OPTIMIZE", "-Og")
        yield


@pytest.fixture(scope="module")
def compiled_anew(as_shipped: None) -> Iterator[None]:
    """Run the compiler every time, where it is the compiler's work that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain._Runner, "__call__", PLAIN)
        yield


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Draw no figure of a study, where it is not the report that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "printed", lambda *given, **options: {})
        yield


@pytest.fixture(scope="session")
def digits() -> Task:
    """The smallest real task: an MLP on the digits that come with the package.

    As made in this process: its studies run here, and start no other, which takes longer.
    """
    return replace(classification("digits", "mlp", progress=False))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, for pages of reports; without it the test is skipped."""
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def turn(request: pytest.FixtureRequest) -> object:
    """Which of its turns a test is at: 0, but for `make test-long`."""
    return request.param


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests that draw examples, and those that ask for one, their turns."""
    long = metafunc.config.getoption("--hypothesis-profile") == "long"
    if "turn" in metafunc.fixturenames:
        turns = [pytest.param(k, marks=pytest.mark.long) for k in range(TURNS)] if long else [0]
        metafunc.parametrize("turn", turns, indirect=True)
    elif long and hypothesis.is_hypothesis_test(metafunc.function):
        metafunc.fixturenames.append("turn")
        metafunc.parametrize("turn", range(TURNS), indirect=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is imported: a million objects."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, and what takes long where it is not asked for."""
    if item.get_closest_marker("long") and "long" not in item.config.option.markexpr:
        pytest.skip("takes long; `make test-long` runs it")
    if item.get_closest_marker("cluster") and "cluster" not in item.config.option.markexpr:
        pytest.skip("starts a Ray cluster; `make test-ray` runs it")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
