"""What layer-wise reconstruction costs: seconds and memory for one network at one keep ratio.

    python benchmarks/reconstruct.py [--net resnet20] [--keep 0.1] [--images 4096]

Random weights and images: the cost does not depend on them. Peak memory is that of the whole
process, less what it held before.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from datetime import UTC, datetime

import torch

from secateur import Budget, Calibration, machine, prunable, reconstruct, select
from secateur.nets import build
from secateur.pruning.criteria import find

GOAL = 60.0
BATCH = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=4096)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = machine.device()
    dense = build(arguments.net).to(device, memory_format=torch.channels_last).eval()
    batches = torch.randn(arguments.images, 3, 32, 32, device=device)
    batches = batches.to(memory_format=torch.channels_last)
    data = Calibration(tuple(batches.split(BATCH)), autocast=machine.bf16(device))
    names = prunable(dense).names
    masks = select(find("magnitude").scores(dense, names), Budget(arguments.keep))
    model = copy.deepcopy(dense)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    result = reconstruct(model, dense, masks, data)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{arguments.net}, keep {arguments.keep:g}, {data.count} images, "
        f"{machine.describe()['cpu']}, {torch.get_num_threads()} threads, "
        f"{datetime.now(UTC):%Y-%m-%d}, n=1\n"
        f"{len(result.layers)} layers in {seconds:.1f} s (goal {GOAL:g}), peak {peak:.0f} MB"
    )
    return seconds > GOAL


if __name__ == "__main__":
    raise SystemExit(main())
