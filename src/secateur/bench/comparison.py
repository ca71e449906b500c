"""One network, on secateur and on other engines, measured side by side."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from secateur import machine
from secateur.bench import environments, inputs, roofline
from secateur.bench.race import Race, Runner, profile
from secateur.bench.result import Result
from secateur.compiler.artifact import is_engine
from secateur.errors import FileError, UsageError

MOST_SAMPLES = 1_000_000  # of a batch
MOST_ROUNDS = 10_000
LONGEST = 600  # seconds of a turn


def run(
    model: Path,
    against: str = "onnxruntime",
    *,
    onnx: Path | None = None,
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    rounds: int = 20,
    seconds: float = 0.2,
    layers: bool = False,
    price: float | None = None,
    env: Sequence[str] = (),
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    values: str = "fp32",
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure a network on secateur and on its peers, in turn, each in a process of its own.

    Every engine computes in float32 with the same number of threads, bound to the same cores.

    Args:
        model: an ONNX file, which is compiled first, or a compiled network.
        against: peers, with commas between; see `environments.PEERS`. May be empty.
        onnx: what the peers load, where `model` is a compiled network.
        batches: batch sizes; 1 gives latency, larger ones throughput.
        threads: by default one for each physical core.
        rounds: how often every engine has its turn, at least 2.
        seconds: each turn takes, and a quarter more for warming up.
        layers: also time every step of secateur's program, and the machine's roofline.
        price: of an hour of this machine, in any currency.
        env: PEER=FOLDER of virtual environments to use in place of secateur's own.
        input_shapes: input → shape, where more than the first axis is dynamic.
        values: how weights are stored when compiling: "fp32", "fp16" or "bf16".
        progress: is told what is going on.

    Raises:
        UsageError: invalid arguments.
        FileError: a file that cannot be read.
        CompileError: the network cannot be compiled or run here, or a peer cannot be installed.
    """
    rivals = environments.peers(against)
    _check(model, onnx, batches, rounds, seconds, rivals)
    places = environments.given(tuple(env))
    race = Race(machine.cores_for(threads), rounds, seconds, price, progress)
    compiled = is_engine(model)
    source = onnx if compiled else model
    with ExitStack() as stack:
        artifact, compiling = model, None
        if not compiled:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            progress(f"compiling {model.name}")
            start = time.perf_counter()
            artifact = _compiled(model, folder, input_shapes or {}, values)
            compiling = time.perf_counter() - start
        ours = Runner(
            "secateur", Path(sys.executable), artifact, artifact.stat().st_size, required=True
        )
        if source:
            given = inputs.of_onnx(source, input_shapes or {})
        else:
            given = inputs.of_artifact(artifact)
        runners = [ours]
        for peer in rivals:
            assert source is not None
            progress(f"making sure that {peer.name} is installed")
            python = environments.python(peer, places)
            runners.append(Runner(peer.name, python, source, inputs.onnx_bytes(source)))
        result = compete(runners, given, batches, race, name=model.name)
        if layers:
            progress("timing each step")
            feeds = [inputs.draw(given, batch) for batch in batches]
            steps = [step for batch in feeds for step in profile(ours, batch, race.cores)]
            roof = roofline.measure(race.cores)
            result = replace(result, steps=tuple(steps), roofline=roof)
    return replace(result, compile=compiling)


def compete(
    runners: Sequence[Runner],
    given: Sequence[inputs.Input],
    batches: Sequence[int],
    race: Race,
    *,
    name: str,
) -> Result:
    """Time engines on random inputs at several batch sizes.

    Raises:
        UsageError: the network's batch is fixed at another number.
        CompileError: a required engine fails.
    """
    drawn = [inputs.draw(given, batch) for batch in batches]
    outcomes = [
        race.run(runners, feeds, inputs.axes(given, batch))
        for batch, feeds in zip(batches, drawn, strict=True)
    ]
    shares = [outcome.others for outcome in outcomes if outcome.others is not None]
    return Result(
        model=name,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        machine=machine.describe(),
        cores=tuple(race.cores),
        pinned=machine.can_pin(),
        rounds=race.rounds,
        seconds=race.seconds,
        timings=tuple(timing for outcome in outcomes for timing in outcome.timings),
        others=max(shares, default=None),
        refusals=tuple(refusal for outcome in outcomes for refusal in outcome.refusals),
    )


def _check(
    model: Path,
    onnx: Path | None,
    batches: Sequence[int],
    rounds: int,
    seconds: float,
    rivals: Sequence[environments.Peer],
) -> None:
    for path in (model, onnx):
        if path and not path.is_file():
            raise FileError(f"there is no file {path}; give an ONNX file or a compiled network")
    if rivals and not onnx and is_engine(model):
        raise UsageError(
            f"{model} is compiled, and {rivals[0].name} cannot read that; name the network's ONNX "
            "file with --onnx, or compare with nothing: --against ''"
        )
    if not batches or not 1 <= min(batches) <= max(batches) <= MOST_SAMPLES:
        raise UsageError(
            f"batch sizes must be at least 1, and at most {MOST_SAMPLES:,}, got {list(batches)}"
        )
    if not 2 <= rounds <= MOST_ROUNDS or not 0 < seconds <= LONGEST:
        raise UsageError(
            f"needs 2 rounds or more, at most {MOST_ROUNDS:,}, of some time, at most {LONGEST} "
            f"seconds, got {rounds} of {seconds:g} s"
        )


def _compiled(
    model: Path, folder: Path, shapes: Mapping[str, tuple[int, ...]], values: str
) -> Path:
    from secateur.compiler.pipeline import compile_network

    path: Path = folder / "network.so"
    compile_network(model, input_shapes=shapes, values=values).write(path)
    return path
