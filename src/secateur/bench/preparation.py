"""What comes before a race: networks are compiled, peers installed, int8 networks made; once."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from secateur import machine
from secateur.bench import calibration, environments, fixing, inputs
from secateur.bench.calibration import Calibration, Samples
from secateur.bench.contest import Contest
from secateur.bench.process import Process
from secateur.bench.race import Runner, save
from secateur.compiler.artifact import is_engine
from secateur.compiler.fixed_inputs import Value
from secateur.errors import CompileError, FileError, UsageError

QUANTISING = 3600
"""Seconds that a peer may take to quantise a network."""

Models = Path | str | Mapping[str, Path | str]


@contextmanager
def prepared(
    model: Models,
    against: str = "onnxruntime",
    *,
    onnx: Path | None = None,
    calibrate: Samples | None = None,
    threads: int | None = None,
    env: Sequence[str] = (),
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    fixed: Mapping[str, Value] | None = None,
    values: str = "fp32",
    agree: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Contest]:
    """Make secateur's engines and their peers ready; yield what races them and runs them.

    What takes long, compiling and quantising, is done once for all races and outputs. Files are
    kept in a temporary folder until the end of the `with`.

    Args:
        model: an ONNX file, which is compiled first, or a compiled network; or name → such a file,
            for several of one network's artifacts, or of several networks with the same inputs.
        against: peers, with commas between; see `environments.PEERS`. May be empty.
        onnx: what peers load; by default the first ONNX file of `model`.
        calibrate: real samples for the peers that quantise; random ones by default, which leave
            their speed meaningful, and not their outputs.
        threads: by default one for each physical core.
        env: PEER=FOLDER of virtual environments to use in place of secateur's own.
        input_shapes: input → shape, where more than the first axis is dynamic.
        fixed: inputs that become constants, for peers too: input → a number, nested lists, or an
            array.
        values: how weights are stored when compiling: "fp32", "fp16" or "bf16".
        agree: all run the same network, so outputs in float32 that differ are refused. False: they
            are different networks, and only speed is compared.
        progress: is told what is going on.

    Raises:
        UsageError: invalid arguments.
        FileError: a file that cannot be read.
        CompileError: the network cannot be compiled here, or a peer cannot be installed.
    """
    models = _named(model)
    rivals = environments.peers(against)
    compiled = _check(models, onnx, rivals)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if fixed:
            models, onnx = _fixed(models, compiled, onnx, fixed, folder)
        first = next(iter(models.values()))
        source = onnx or next((path for name, path in models.items() if not compiled[name]), None)
        if rivals and source is None:
            raise UsageError(
                f"{first} is compiled, and {rivals[0].name} cannot read that; "
                "name the network's ONNX file with --onnx, or compare with nothing: --against ''"
            )
        places = environments.given(tuple(env))
        cores = machine.cores_for(threads)
        shapes = input_shapes or {}
        if calibrate is not None and source:  # before anything that takes long: they may not fit
            calibration.of(inputs.of_onnx(source, shapes), calibrate)
        spent = None
        runners = []
        for number, (label, path) in enumerate(models.items()):
            artifact = path
            if not compiled[label]:
                progress(f"compiling {path.name}")
                start = time.perf_counter()
                artifact = _compiled(path, folder / f"network{number}.so", shapes, values)
                spent = (spent or 0.0) + time.perf_counter() - start
            size = artifact.stat().st_size
            runners.append(Runner(label, "secateur", Path(sys.executable), artifact, size, True))
        given = inputs.of_onnx(source, shapes) if source else inputs.of_artifact(first)
        samples = None
        if calibrate is not None or any(peer.quantised for peer in rivals):
            samples = calibration.of(given, calibrate)
        refused: dict[str, str] = {}
        made: dict[str, str] = {}
        for peer in rivals:
            assert source is not None
            progress(f"making sure that {peer.name} is installed")
            python = environments.python(peer, places)
            size = inputs.onnx_bytes(source)
            runner = Runner(peer.name, peer.engine, python, source, size, settings=peer.settings)
            if peer.quantised:
                assert samples is not None
                progress(f"quantising for {peer.name}")
                try:
                    runner, made[peer.name] = _quantised(runner, samples, folder, cores)
                except CompileError as error:
                    refused[peer.name] = str(error)
                    continue
            runners.append(runner)
        notes = (
            [samples.note([f"{p} ({by})" for p, by in made.items()])] if samples and made else []
        )
        title = ", ".join(dict.fromkeys(path.name for path in models.values()))
        yield Contest(title, runners, given, cores, refused, tuple(notes), spent, agree)


def _fixed(
    models: Mapping[str, Path],
    compiled: Mapping[str, bool],
    onnx: Path | None,
    values: Mapping[str, Value],
    folder: Path,
) -> tuple[dict[str, Path], Path | None]:
    """Return the models and what peers load, with inputs that became constants."""
    if all(compiled.values()) and onnx is None:
        raise UsageError(
            f"{next(iter(models.values()))} is compiled, and its inputs stay; fix them "
            "when it is compiled, or give the ONNX file"
        )
    found = {
        name: path if compiled[name] else fixing.fixed(path, values, folder / f"model{number}")
        for number, (name, path) in enumerate(models.items())
    }
    return found, fixing.fixed(onnx, values, folder / "onnx") if onnx else None


def _named(model: Models) -> dict[str, Path]:
    named = model if isinstance(model, Mapping) else {"secateur": model}
    return {name: Path(path) for name, path in named.items()}


def _check(
    models: Mapping[str, Path], onnx: Path | None, rivals: Sequence[environments.Peer]
) -> dict[str, bool]:
    """Return model's name → whether it is compiled already."""
    if not models:
        raise UsageError("there is nothing to measure; name at least one model")
    for path in (*models.values(), onnx):
        if path and not path.is_file():
            raise FileError(f"there is no file {path}; give an ONNX file or a compiled network")
    for peer in rivals:
        if peer.name in models:
            raise UsageError(f"{peer.name!r} is the name of a peer; give the model another one")
    return {name: is_engine(path) for name, path in models.items()}


def _compiled(model: Path, path: Path, shapes: Mapping[str, tuple[int, ...]], values: str) -> Path:
    from secateur.compiler.pipeline import compile_network

    compile_network(model, input_shapes=shapes, values=values).write(path)
    return path


def _quantised(
    runner: Runner, samples: Calibration, folder: Path, cores: Sequence[int]
) -> tuple[Runner, str]:
    """Return a runner with an int8 network, and what made it: in the peer's own environment.

    A process of its own does it, so that the one that is timed holds no more than it needs.
    """
    folder = folder / runner.name
    folder.mkdir()
    given = folder / "samples.npz"
    save(given, samples.feeds)
    with Process(runner.name, runner.python, len(cores)) as process:
        answer = process.ask(
            "quantise",
            limit=QUANTISING,
            engine=runner.engine,
            model=str(runner.model.absolute()),
            inputs=str(given),
            names=list(samples.feeds),
            batch=samples.batch,
            folder=str(folder),
            cpus=list(cores) if machine.can_pin() else [],
            settings=dict(runner.settings),
        )
    given.unlink()
    files = [Path(file) for file in answer["files"]]
    size = sum(file.stat().st_size for file in files)
    return replace(runner, model=files[0], bytes=size), str(answer["by"])
