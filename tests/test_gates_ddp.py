"""Gates under DDP: two processes on the CPU learn the same gates without talking about them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import forked
from secateur.errors import UsageError
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.selecting.budget import Budget

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)
STEPS, HELD, MICRO, SIZE = 4, 3, 2, 8


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )


def micro_batch(step: int, micro: int, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + 10 * micro + rank)
    x = torch.randn(SIZE, 6, generator=generator)
    return x, torch.randint(0, 3, (SIZE,), generator=generator)


def trained(model: nn.Module, inner: nn.Module, ranks: list[int]) -> dict[str, Any]:
    """Train on the given ranks' data; every optimizer step accumulates two micro-batches."""
    optimizer = torch.optim.SGD(inner.parameters(), 0.1, 0.9, weight_decay=0.01)
    gating = GateTraining(model, optimizer)
    hold = None
    for step in range(STEPS + HELD):
        if step == STEPS:
            gates = {**gating.state_dict()["gates"], **gating.state_dict()["momentum"]}
            masks = gating.finish(Budget(0.2))
            hold = MaskHold(model, optimizer, masks)
        for micro in range(MICRO):
            parts = [micro_batch(step, micro, rank) for rank in ranks]
            x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            last = micro == MICRO - 1
            with (
                nullcontext() if last or model is inner else model.no_sync(),  # type: ignore[operator]
                gating.step() if hold is None else nullcontext(),
            ):
                (cross_entropy(model(x), y) / MICRO).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    return {"gates": gates, "masks": dict(masks), "model": inner.state_dict()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for view in (False, True):
        inner = network()
        model = nn.parallel.DistributedDataParallel(inner, gradient_as_bucket_view=view)
        torch.save(trained(model, inner, [rank]), f"{folder}/{view}{rank}.pt")
    sharded(folder, rank)
    dist.barrier()
    dist.destroy_process_group()


def sharded(folder: str, rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    fully_shard(model, mesh=mesh)
    try:
        GateTraining(model, torch.optim.SGD(model.parameters(), 0.1))
    except UsageError as error:
        Path(f"{folder}/{rank}.txt").write_text(str(error))


def flat(result: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{part} {name}": t for part, named in result.items() for name, t in named.items()}


def test_processes_agree_bit_for_bit_and_with_one_process_up_to_rounding(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        worker, (str(tmp_path),), nprocs=2, start_method=forked.KIND
    )
    alone = network()
    expected = flat(trained(alone, alone, [0, 1]))
    for view in (False, True):  # of gradients into DDP's buckets
        one, two = (
            flat(torch.load(tmp_path / f"{view}{rank}.pt", weights_only=True)) for rank in (0, 1)
        )
        assert one.keys() == two.keys() == expected.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, two[name]), name
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)
        masks = {name: mask for name, mask in one.items() if name.startswith("masks")}
        assert sum(int(mask.sum()) for mask in masks.values()) == round(0.2 * (16 * 16 + 16 * 3))
        for name, mask in masks.items():
            assert torch.equal(one[name.replace("masks", "model")] != 0, mask)
    for rank in (0, 1):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert "sharded by FSDP" in message
        assert "train with DDP" in message
