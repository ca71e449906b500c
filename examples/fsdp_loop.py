"""A model that FSDP shards: trained by all processes, gathered, then pruned by one of them.

python examples/fsdp_loop.py                             # one process
torchrun --nproc-per-node 2 examples/fsdp_loop.py        # two, each with half of every weight
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import secateur
from secateur.data.digits import load


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    digits = load()
    images, labels = digits.train.images.flatten(1) / 255, digits.train.labels
    rank, world = dist.get_rank(), dist.get_world_size()

    model = network()
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(64):
            mine = batch[rank::world]
            cross_entropy(model(images[mine]), labels[mine]).backward()
            optimizer.step()
            optimizer.zero_grad()

    # Every weight to process 0, which prunes what any torch program would load.
    whole = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if rank == 0:
        gathered = network()
        gathered.load_state_dict(whole)
        gathered, result = secateur.prune(gathered, 0.2)
        print(f"{result.masks.kept:,} of {result.masks.total:,} weights kept")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
