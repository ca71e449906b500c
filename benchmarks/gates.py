"""What phase 2 costs: a step through the cut against a plain training step.

    python benchmarks/gates.py [--net convnet] [--batch-size 128] [--rounds 40] [--teach]

Plain and gated steps alternate within one run; printed is the median of the pairs' ratios.
Selecting the top-K of the current gates is part of every gated step, and with --teach so is the
teacher's pass over the batch.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from contextlib import nullcontext
from datetime import UTC, datetime

import torch
import torch.nn.functional as F

from secateur import Gates, SoftTargets, machine, prunable
from secateur.nets import build
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.phase import GatePhase

GOAL = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="convnet")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--teach", action="store_true", help="distil in the gated steps")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = machine.device()
    model = build(arguments.net).to(device, memory_format=torch.channels_last)
    teacher, imitation = copy.deepcopy(model).eval(), SoftTargets()
    models = {False: model, True: copy.deepcopy(model)}  # plain, and with gates
    gates = Gates.attach(models[True], prunable(model).names)
    optimizers = {
        gated: torch.optim.SGD(own.parameters(), 1e-3, 0.9, weight_decay=5e-4, nesterov=True)
        for gated, own in models.items()
    }
    inputs = torch.randn(arguments.batch_size, 3, 32, 32, device=device)
    inputs = inputs.to(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (arguments.batch_size,), device=device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with learning(gates, GatePhase()) as pruning:
        for number in range(2 * (arguments.rounds + 3)):
            gated = bool(number % 2)
            optimizer = optimizers[gated]
            start = time.perf_counter()
            precision = torch.autocast(device.type, torch.bfloat16, enabled=machine.bf16(device))
            wanted = None
            if gated and arguments.teach:
                with torch.no_grad(), precision:
                    wanted = teacher(inputs).float()
            with pruning(optimizer) if gated else nullcontext():
                with precision:
                    outputs = models[gated](inputs).float()
                loss = F.cross_entropy(outputs, targets)
                if wanted is not None:
                    loss = (loss + imitation(outputs, wanted)) / 2
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 6:  # the first rounds warm up
                seconds[gated].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(seconds[False], seconds[True], strict=True)]
    ratio = statistics.median(ratios)
    low, high = statistics.quantiles(ratios, n=10)[0], statistics.quantiles(ratios, n=10)[-1]
    print(
        f"{arguments.net}, batch {arguments.batch_size}, {machine.describe()['cpu']}, "
        f"{torch.get_num_threads()} threads, {datetime.now(UTC):%Y-%m-%d}, n={len(ratios)} pairs"
        f"{', distilled' if arguments.teach else ''}\n"
        f"plain step {1e3 * statistics.median(seconds[False]):.1f} ms, "
        f"through the cut {1e3 * statistics.median(seconds[True]):.1f} ms, "
        f"ratio {ratio:.2f} (10–90 %: {low:.2f}–{high:.2f}; goal {GOAL:g})"
    )
    return ratio > GOAL


if __name__ == "__main__":
    raise SystemExit(main())
