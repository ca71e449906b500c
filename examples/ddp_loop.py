"""Gates under DistributedDataParallel: two processes on the CPU, equal gates without a word.

python examples/ddp_loop.py
"""

import tempfile
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

WORLD, EPOCHS, GATES_FROM, CUT_AT = 2, 6, 2, 4


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    torch.manual_seed(0)
    digits = load()
    data = TensorDataset(digits.train.images.flatten(1) / 255, digits.train.labels)
    sampler = DistributedSampler(data)
    model = DistributedDataParallel(
        nn.Sequential(
            *(nn.Linear(64, 128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.ReLU()),
            nn.Linear(128, 10),
        )
    )
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
        for inputs, targets in DataLoader(data, batch_size=32, sampler=sampler):
            with nullcontext() if gating is None else gating.step():
                cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    kept = sum(int((model.module.get_parameter(name) != 0).sum()) for name in masks)
    assert kept == masks.kept == round(0.1 * masks.total)
    digests: list[str | None] = [None] * WORLD
    dist.all_gather_object(digests, masks.digest())
    assert len(set(digests)) == 1  # every process cut the same weights
    if rank == 0:
        print(f"{kept:,} of {masks.total:,} weights kept, the same ones in {WORLD} processes")
    dist.barrier()  # no process leaves while another still talks to it
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (folder,), nprocs=WORLD)
