"""What `secateur doctor` measures of zeros."""

from __future__ import annotations

import shutil

import pytest

from secateur.compiler.runtime import Engine
from secateur.errors import CompileError
from secateur.terminal import gains


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_every_pattern_and_type_is_measured() -> None:
    found = gains.measure()
    assert list(found) == ["fp32 weight", "fp32 1x4", "fp32 dot4", "int8", "int8 dot4"]
    assert all(speed > 0 for speed in found.values())


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
def test_interruptions_of_some_runs_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10**6))

    def profile(engine: Engine, *arrays: object, repeats: int = 1) -> list[tuple[str, float]]:
        """Dense takes 4 ms, the others 1; nine of ten runs of dense are interrupted for 50."""
        steps = [step["name"] for step in engine.info["steps"][0]]
        waits = [0.05 if next(calls) % 10 else 0.0 for _ in range(repeats)]
        dense = 0.004 + sum(waits) / repeats
        return [(name, dense if "/fp32/" in name else 0.001) for name in steps]

    monkeypatch.setattr(Engine, "profile", profile)
    found = gains.measure()
    assert found == pytest.approx(dict.fromkeys(found, 4.0))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> dict[str, float]:
        raise CompileError("there is no C compiler; install gcc")

    monkeypatch.setattr(gains, "measure", none)
    said = gains.said()
    assert (said.value, said.ok, said.hint) == (
        "not measured",
        None,
        "there is no C compiler; install gcc",
    )


@pytest.mark.parametrize(
    ("found", "value", "hint"),
    [
        (
            {"fp32 weight": 3.14, "int8": 4, "int8 dot4": 11.4},
            "fp32: weight 3.1 ×; int8: no zeros 4 ×, dot4 11 ×",
            "fastest: --pattern dot4 --int8",
        ),
        ({"fp32 1x4": 3.0, "int8": 2.0}, "fp32: 1x4 3 ×; int8: no zeros 2 ×", "--pattern 1x4"),
    ],
)
def test_the_fastest_is_named(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, float], value: str, hint: str
) -> None:
    monkeypatch.setattr(gains, "measure", lambda: found)
    said = gains.said()
    assert said.value == value
    assert said.hint.rstrip().endswith(hint)
