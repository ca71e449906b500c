"""How long compiling takes, by phase: processor seconds of this process and of the C compiler.

    python benchmarks/compiling.py FOLDER [--nets resnet18-cifar,detector] [--sparsities 0,0.8]
        [--int8] [--batch 512] [--limit 10]

Networks are made once, with random weights, as ONNX files in FOLDER. `reading` is from the file to
a graph, `passes` simplify it, `planning` lays values out and chooses kernels, `reference` runs the
network in float64 and sees that samples stay apart, `C` writes the C and packs the file, `cc` is
the C compiler, `comparing` loads the engine and compares it. Exit status 1: one took longer than
--limit.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import networks
import secateur
import suite_nets
from secateur import machine
from secateur.compiler import (
    apart,
    artifact,
    choice,
    emit,
    network,
    onnx_reader,
    passes,
    pipeline,
    toolchain,
    verification,
)
from secateur.export import to_onnx
from suite_nets.layers import conv_norm, depthwise

PHASES: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading": ((onnx_reader, "read"),),
    "passes": ((passes, "apply"),),
    "planning": (
        *((network, "plan"), (network, "plan_mixed")),
        *((choice, "sparse"), (choice, "load"), (choice, "gains")),
    ),
    "reference": ((verification, "truth"), (apart, "check"), (apart, "check_whole")),
    "C": ((emit, "emit"), (artifact, "pack")),
    "cc": ((toolchain, "build"),),
    "comparing": ((verification, "verify"), (pipeline, "Engine")),
}
"""Phase → the functions that are it: a module, and its name there."""


class Detector(nn.Module):
    """About 3 M weights: separable layers at strides 4 to 32, a pyramid, two maps of 85 numbers."""

    def __init__(self) -> None:
        super().__init__()

        def stage(before: int, width: int, count: int) -> nn.Sequential:
            layers = [depthwise(before, 3, 2), conv_norm(before, width, 1, act=nn.SiLU)]
            for _ in range(count):
                layers += [depthwise(width, 5), conv_norm(width, width, 1, act=nn.SiLU)]
            return nn.Sequential(*layers)

        self.early = nn.Sequential(
            conv_norm(3, 32, 3, 2, act=nn.SiLU), stage(32, 64, 2), stage(64, 128, 3)
        )
        self.middle, self.late = stage(128, 256, 4), stage(256, 512, 7)
        self.narrow = conv_norm(512, 256, 1, act=nn.SiLU)
        self.joined = nn.Sequential(depthwise(512, 5), conv_norm(512, 256, 1, act=nn.SiLU))
        self.head = nn.ModuleList(nn.Conv2d(width, 255, 1) for width in (256, 256))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs [N, 255, 20, 20] and [N, 255, 10, 10] of images [N, 3, 320, 320]."""
        middle = self.middle(self.early(images))
        coarse = self.narrow(self.late(middle))
        up = nn.functional.interpolate(coarse, scale_factor=2.0)
        fine = self.joined(torch.cat([up, middle], 1))
        return self.head[0](fine), self.head[1](coarse)


@dataclass(frozen=True)
class Net:
    """A network: by sparsity, the module; and the shape of one input."""

    build: Callable[[float], nn.Module]
    shape: tuple[int, ...]


def _detector(sparsity: float) -> nn.Module:
    model = Detector()
    if sparsity:
        networks.cut(model, sparsity, ("head*", *suite_nets.uncut(model)))
    networks.settle(model, lambda count: (torch.randn(count, 3, 320, 320),), count=2, batches=1)
    return model.eval()


NETS = {
    "resnet18-cifar": Net(partial(networks.module, "resnet18"), (3, 32, 32)),
    "resnet18": Net(partial(suite_nets.module, "resnet18"), (3, 224, 224)),
    "ssdlite": Net(partial(suite_nets.module, "ssdlite"), (3, 320, 320)),
    "detector": Net(_detector, (3, 320, 320)),
}


def made(name: str, sparsity: float, batch: int, folder: Path, *, int8: bool) -> Path:
    """Return an ONNX file, written if it is not there.

    Args:
        name: one of `NETS`. sparsity: of its layers, in [0, 1).
        batch: samples that the file fixes; 0 leaves them free.
        folder: made if need be.
        int8: quantised, on random samples: only time is measured.
    """
    kinds = [f"batch{batch}"] * bool(batch) + ["int8"] * int8
    path = folder / f"{'-'.join([name, f'{sparsity:g}', *kinds])}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        net = NETS[name]
        torch.manual_seed(0)
        model = net.build(sparsity)
        content = to_onnx(model, torch.randn(batch or 2, *net.shape), batched=not batch)
        if int8:
            drawn = np.random.default_rng(0).standard_normal((16, *net.shape)).astype(np.float32)
            content = secateur.quantize(content, drawn, ranges="minmax").content
        path.write_bytes(content)
    return path


def processor() -> float:
    """Return the seconds of a processor that this process and those it waited for have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Count what each phase takes, without phases in it, while this is open."""
    spent = dict.fromkeys(PHASES, 0.0)
    inner: list[float] = [0.0]

    def counted(phase: str, of: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            inner.append(0.0)
            begun = processor()
            try:
                return of(*given, **options)
            finally:
                took = processor() - begun
                spent[phase] += took - inner.pop()
                inner[-1] += took

        return call

    with ExitStack() as stack:
        for phase, functions in PHASES.items():
            for module, name in functions:
                double = counted(phase, getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, double))
        yield spent


def row(path: Path) -> tuple[float, str]:
    """Compile a file; return the seconds of a processor it took, and a row of the table."""
    with timed() as spent:
        begun = processor()
        pipeline.compile_network(path)
        total = processor() - begun
    cells = [f"{seconds:.1f}" for seconds in (*spent.values(), total)]
    return total, f"| {path.stem} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of networks; made if need be")
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--sparsities", default="0,0.8")
    parser.add_argument("--int8", action="store_true", help="networks in 8 bits")
    parser.add_argument("--batch", type=int, default=0, help="that the file fixes")
    parser.add_argument("--limit", type=float, default=10, help="seconds that one may take")
    given = parser.parse_args(arguments)
    if unknown := set(given.nets.split(",")) - set(NETS):
        parser.error(f"no network {', '.join(sorted(unknown))}; choose of {', '.join(NETS)}")
    print(f"| network | {' | '.join(PHASES)} | all |")
    print("|---|" + "---:|" * (len(PHASES) + 1))
    slow = 0
    for name in given.nets.split(","):
        for sparsity in map(float, given.sparsities.split(",")):
            path = made(name, sparsity, given.batch, given.folder, int8=given.int8)
            seconds, line = row(path)
            slow += seconds > given.limit
            print(line, flush=True)
    print(f"\nseconds of a processor; {machine.describe()['cpu']}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
