"""Gates in a training that several processes share: the masks of one process, in all of them.

python examples/ddp_loop.py                              # one process
torchrun --nproc-per-node 2 examples/ddp_loop.py         # two, each with half of every batch
"""

import os
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from secateur import Budget, GatePhase
from secateur.data.digits import load
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold

RANK = int(os.environ.get("RANK", "0"))  # torchrun says these
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
EPOCHS, GATES_FROM, CUT_AT, BATCH = 6, 2, 4, 64


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    model: nn.Module = nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, 10),
    ).to(device, torch.float64)  # in which one process and four round alike
    if WORLD > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        model = DistributedDataParallel(model)
    digits = load()
    images = digits.train.images.flatten(1).double() / 255
    data = TensorDataset(images.to(device), digits.train.labels.to(device))
    sampler = DistributedSampler(data, WORLD, RANK)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)

    gating = None
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        if epoch == GATES_FROM:
            gating = GateTraining(model, optimizer, phase=GatePhase(lowest_keep=0.05))
        if epoch == CUT_AT:
            masks = gating.finish(Budget(0.1))
            gating = None
            MaskHold(model, optimizer, masks)
        for inputs, targets in DataLoader(data, BATCH // WORLD, sampler=sampler, drop_last=True):
            with nullcontext() if gating is None else gating.step():
                cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    inner = model.module if WORLD > 1 else model
    kept = sum(int((inner.get_parameter(name) != 0).sum()) for name in masks)
    assert kept == masks.kept == round(0.1 * masks.total)
    digests = [masks.digest()] * WORLD
    if WORLD > 1:
        dist.all_gather_object(digests, masks.digest())
        dist.destroy_process_group()
    assert len(set(digests)) == 1  # every process cut the same weights
    if RANK == 0:
        processes = "1 process" if WORLD == 1 else f"each of {WORLD} processes"
        print(f"{kept:,} of {masks.total:,} weights kept in {processes}: masks {digests[0][:12]}")


if __name__ == "__main__":
    main()
