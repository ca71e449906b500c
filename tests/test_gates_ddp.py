"""One network over several processes: the gates and masks of one, and no word about them.

`make test-long` starts four, and torchrun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import fsdp
from torch.nn.functional import cross_entropy

import forked
from secateur.errors import UsageError
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.selecting.budget import Budget

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)
WAYS = ("buckets", "bucket views", "split optimizer")
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


def trained(
    model: nn.Module, inner: nn.Module, ranks: list[int], *, split: bool = False
) -> dict[str, Any]:
    """Train on the given ranks' data; every optimizer step accumulates two micro-batches."""
    if split:  # its state, over the processes
        given = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
        optimizer: Any = zero()(inner.parameters(), torch.optim.SGD, **given)
    else:
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


def zero() -> Any:
    """Return torch's optimizer that splits its state, whose import warns of other things."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer


def worker(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    for way in WAYS:
        inner = network()
        model = nn.parallel.DistributedDataParallel(
            inner, gradient_as_bucket_view=way == "bucket views"
        )
        found = trained(model, inner, [rank], split=way == "split optimizer")
        torch.save(found, f"{folder}/{way}{rank}.pt")
    Path(f"{folder}/{rank}.json").write_text(json.dumps([*sharded(world), overlapping()]))
    dist.barrier()
    dist.destroy_process_group()


def sharded(world: int) -> list[str]:
    """Return how gates are refused of a model that is sharded, in one way and the other."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
    old = fsdp.FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    found = []
    for model in (old, fsdp.fully_shard(network(), mesh=mesh)):
        with pytest.raises(UsageError) as refused:
            GateTraining(model, torch.optim.SGD(model.parameters(), 0.1))
        found.append(str(refused.value))
    return found


def overlapping() -> str:
    """Return how an optimizer is refused that steps within backward."""
    model = network()
    given = {"overlap_with_ddp": True, "lr": 0.1}
    optimizer = zero()(model.parameters(), torch.optim.SGD, **given)
    with pytest.raises(UsageError) as refused:
        GateTraining(model, optimizer)
    return str(refused.value)


def flat(result: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{part} {name}": t for part, named in result.items() for name, t in named.items()}


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
def test_processes_agree_bit_for_bit_and_with_one_process_up_to_rounding(
    tmp_path: Path, world: int
) -> None:
    torch.multiprocessing.start_processes(
        worker, (str(tmp_path), world), nprocs=world, start_method=forked.KIND
    )
    alone = network()
    expected = flat(trained(alone, alone, list(range(world))))
    for way in WAYS:
        one, *others = (
            flat(torch.load(tmp_path / f"{way}{rank}.pt", weights_only=True))
            for rank in range(world)
        )
        for other in others:
            assert one.keys() == other.keys() == expected.keys()
            for name, tensor in one.items():
                assert torch.equal(tensor, other[name]), (way, name)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)
        masks = {name: mask for name, mask in one.items() if name.startswith("masks")}
        assert sum(int(mask.sum()) for mask in masks.values()) == round(0.2 * (16 * 16 + 16 * 3))
        for name, mask in masks.items():
            assert torch.equal(mask, expected[name]), (way, name)
            assert torch.equal(one[name.replace("masks", "model")] != 0, mask)
    for rank in range(world):
        *of_models, of_optimizer = json.loads((tmp_path / f"{rank}.json").read_text())
        for message in of_models:
            assert "sharded by FSDP" in message
            assert "train with DDP" in message
        assert "leave overlap_with_ddp out" in of_optimizer


@pytest.mark.long
def test_torchrun_cuts_the_weights_that_one_process_cuts(tmp_path: Path) -> None:
    example = str(Path(__file__).parents[1] / "examples" / "ddp_loop.py")
    said = []
    for world in (1, 2, 4):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        done = subprocess.run(
            [sys.executable, *torchrun, example],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"{world} process" in done.stdout
        said.append(done.stdout.rpartition("masks ")[2])
    assert len(set(said)) == 1, said
