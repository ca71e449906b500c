"""One network, on secateur and on other engines, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from secateur.bench.calibration import Samples
from secateur.bench.contest import check
from secateur.bench.preparation import Models, prepared
from secateur.bench.result import Result
from secateur.compiler.fixed_inputs import Value


def run(
    model: Models,
    against: str = "onnxruntime",
    *,
    onnx: Path | None = None,
    calibrate: Samples | None = None,
    batches: Sequence[int] = (1, 64),
    threads: int | None = None,
    rounds: int = 20,
    seconds: float = 0.2,
    layers: bool = False,
    price: float | None = None,
    env: Sequence[str] = (),
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    fixed: Mapping[str, Value] | None = None,
    values: str = "fp32",
    agree: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure a network on secateur and on its peers, in turn, each in a process of its own.

    Every engine runs at the precision that the result names, with the same number of threads, bound
    to the same cores. `prepared` does this in two steps, for more races of one preparation, and for
    outputs on a test set.

    Args:
        model: an ONNX file, which is compiled first, or a compiled network; or name → such a file,
            for several of one network's artifacts, or of several networks with the same inputs.
        against: peers, with commas between; see `environments.PEERS`. May be empty.
        onnx: what peers load; by default the first ONNX file of `model`.
        calibrate: real samples for the peers that quantise: an array, or input → array, whose first
            axis counts samples; random ones by default, which leave their speed meaningful, and not
            their outputs.
        batches: batch sizes; 1 gives latency, larger ones throughput.
        threads: by default one for each physical core.
        rounds: how often every engine has its turn, at least 2.
        seconds: each turn takes, and a quarter more for warming up.
        layers: also time every step of the first model's program, and the machine's roofline.
        price: of an hour of this machine, in any currency.
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
        CompileError: the network cannot be compiled or run here, or a peer cannot be installed.
    """
    check(batches, rounds, seconds)
    with prepared(
        model,
        against,
        onnx=onnx,
        calibrate=calibrate,
        threads=threads,
        env=env,
        input_shapes=input_shapes,
        fixed=fixed,
        values=values,
        agree=agree,
        progress=progress,
    ) as contest:
        return contest.race(
            batches, rounds=rounds, seconds=seconds, layers=layers, price=price, progress=progress
        )
