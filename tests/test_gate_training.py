"""Gates and masks inside a training loop that is not secateur's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from own_loop import adamw, assert_equal, batch, everything, network, run, sgd
from secateur.data import load
from secateur.model.parameters import parameters
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learn_gates
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.gates.phase import GatePhase
from secateur.pruning.parameters import prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.selection import select
from secateur.study.task import Task
from secateur.training import Recipe


@pytest.mark.parametrize(
    "phase",
    [
        GatePhase(),
        GatePhase(weights="frozen", scope="layer", lowest_keep=0.1),
        GatePhase(order="fixed", dense_steps=0.3),
        GatePhase(decay="all", gate_rate=1.0),
    ],
    ids=["joint", "frozen", "fixed", "decay all"],
)
def test_a_plain_loop_learns_exactly_what_learn_gates_learns(
    digits: Task, phase: GatePhase
) -> None:
    recipe = Recipe(epochs=1, batch_size=256, precision="fp32", weight_decay=0.01)
    data = digits.data(torch.device("cpu"))
    torch.manual_seed(1)
    ours = digits.model()
    theirs = copy.deepcopy(ours)
    names = prunable(ours).names
    learn_gates(theirs, names, data, recipe, cross_entropy, phase=phase, seed=3)

    optimizer = sgd(ours)
    gating = GateTraining(ours, optimizer, phase=phase)
    torch.manual_seed(3)
    steps = data.batches_per_epoch(recipe.batch_size)
    ours.train()
    epoch = data.epoch(recipe.batch_size, torch.Generator().manual_seed(3 * 1_000_003))
    for step, (x, y) in enumerate(epoch):
        optimizer.param_groups[0]["lr"] = recipe.rate_at(step / steps)
        with gating.step() as masks:
            cross_entropy(ours(x), y).backward()
        assert masks.kept == Budget(phase.draw(step)).count(masks.total)
        optimizer.step()
        optimizer.zero_grad()
    assert gating.number == steps > 4
    learned, expected = gating.scores(), Gates.of(theirs).scores()
    if phase.order == "fixed":  # kept as gates there, and so rounded once more
        torch.testing.assert_close(learned, expected)
    else:
        assert_equal(learned, expected)
    assert_equal(
        ours.state_dict(), {n: t for n, t in theirs.state_dict().items() if "_gate" not in n}
    )


@given(st.floats(0.01, 1.0), st.sampled_from(["weight", "2:4"]))
def test_finish_cuts_exactly_and_leaves_the_model_as_it_was(keep: float, pattern: str) -> None:
    model = network()
    keys = list(model.state_dict())
    optimizer = sgd(model)
    gating = GateTraining(model, optimizer)
    run(gating, model, optimizer, range(2))
    assert list(model.state_dict()) == keys  # at any time
    masks = gating.finish(Budget(0.5 if pattern == "2:4" else keep, floor=0.0, pattern=pattern))
    total = 16 * 16 + 16 * 3
    assert masks.kept == (total // 2 if pattern == "2:4" else max(1, round(keep * total)))
    assert int(sum((model.get_parameter(name) != 0).sum() for name in masks)) == masks.kept
    assert list(model.state_dict()) == keys == list(copy.deepcopy(model).state_dict())
    assert not [name for name, _ in model.named_buffers() if "gate" in name]
    optimizer.step()  # no hook is left that would miss the gates


@pytest.mark.parametrize("optimizer_of", [sgd, adamw])
def test_held_zeros_stay_zero_until_the_hold_is_removed(optimizer_of: Callable[..., Any]) -> None:
    model = network()
    optimizer = optimizer_of(model)
    gating = GateTraining(model, optimizer)
    run(gating, model, optimizer, range(3))
    masks = gating.finish(Budget(0.2))
    hold = MaskHold(model, optimizer, masks)

    def step() -> int:
        cross_entropy(model(batch(9)[0]), batch(9)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        return int(sum((model.get_parameter(name) != 0).sum() for name in masks))

    assert [step() for _ in range(10)] == [masks.kept] * 10
    hold.remove()
    assert step() > masks.kept


def test_micro_batches_share_a_cut_and_add_up_to_the_whole_batch() -> None:
    whole, parts = network(), network()
    for model in (whole, parts):
        model[1] = nn.Identity()  # batch statistics would differ
    optimizers = sgd(whole), sgd(parts)
    one = GateTraining(whole, optimizers[0])
    two = GateTraining(parts, optimizers[1])
    for step in range(4):
        x, y = batch(step)
        with one.step() as expected:
            cross_entropy(whole(x), y).backward()
        for half in (slice(0, 6), slice(6, 12)):
            before = copy.deepcopy(parts.state_dict())
            with two.step() as masks:
                (cross_entropy(parts(x[half]), y[half]) / 2).backward()
            assert masks == expected
            assert_equal(parts.state_dict(), before)  # whole again between micro-batches
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert one.number == two.number == 4
    torch.testing.assert_close(everything(whole, one), everything(parts, two))
    assert max(gate.abs().max() for gate in two.state_dict()["gates"].values()) > 1e-4


def test_what_clips_the_weights_clips_the_gates() -> None:
    x, y = batch(0)
    gates = {}
    for clip in (1e9, 1e-3):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        gating = GateTraining(model, optimizer, phase=GatePhase(gate_rate=2.0))
        with gating.step():
            cross_entropy(model(x), y).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        gates[clip] = gating.state_dict()["gates"]
    for name, gate in gates[1e-3].items():
        torch.testing.assert_close(gate, gates[1e9][name] * 1e-3 / norm, rtol=1e-4, atol=1e-12)
        assert gate.abs().max() > 0


@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_scaler_changes_nothing_and_its_skipped_steps_are_skipped(
    kind: Callable[..., torch.optim.Optimizer], fused: bool, unscaled: bool
) -> None:
    def trained(scaling: bool) -> tuple[dict[str, Tensor], GateTraining]:
        model = network()
        optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1, fused=fused)
        phase = GatePhase(gate_rate=100.0 if kind is torch.optim.SGD else None)
        gating = GateTraining(model, optimizer, phase=phase)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
        for step in range(5):
            if scaling and step == 2:  # an overflow on the way
                before, number = copy.deepcopy(everything(model, gating)), gating.number
                with gating.step() as lost:
                    scaler.scale(cross_entropy(model(batch(7)[0]), batch(7)[1]) * 1e38).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                after = everything(model, gating)
                for name, tensor in before.items():
                    if "running" not in name and "num_batches" not in name:
                        assert torch.equal(tensor, after[name]), name
                assert gating.number == number
                for name in model.state_dict():
                    model.state_dict()[name].copy_(before[name])  # the forward's statistics
            x, y = batch(step)
            with gating.step() as masks:
                scaler.scale(cross_entropy(model(x), y)).backward()
            if scaling and step == 2:
                assert masks == lost  # its cut is run again
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return everything(model, gating), gating

    with_scaler, gating = trained(True)
    without, _ = trained(False)
    assert gating.number == 5
    torch.testing.assert_close(with_scaler, without, rtol=1e-5, atol=1e-7)
    assert max(gate.abs().max() for gate in gating.state_dict()["gates"].values()) > 1e-4


@pytest.mark.parametrize("optimizer_of", [sgd, adamw])
def test_a_step_decays_only_the_weights_that_it_keeps(optimizer_of: Callable[..., Any]) -> None:
    moved = {}
    for decay in ("kept", "all"):
        model = network()
        before = copy.deepcopy(model.state_dict())
        optimizer = optimizer_of(model)
        gating = GateTraining(model, optimizer, phase=GatePhase(decay=decay))
        with gating.step() as masks:
            cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
        optimizer.step()
        moved[decay] = {
            name: (before[name] - model.get_parameter(name)).abs()[~masks[name]] for name in masks
        }
    for name in masks:
        assert moved["kept"][name].numel() > 10
        assert moved["kept"][name].max() < 1e-6
        assert moved["all"][name].max() > 1e-5


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_whole_after_any_exception(error: type[BaseException]) -> None:
    model = network()
    optimizer = sgd(model)
    gating = GateTraining(model, optimizer)
    before = {name: p.clone() for name, p in model.named_parameters()}

    def fail() -> None:
        with gating.step() as masks:
            assert masks.kept < masks.total
            cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
            raise error

    with pytest.raises(error):
        fail()
    assert_equal(dict(model.named_parameters()), before)
    optimizer.zero_grad()
    run(gating, model, optimizer, range(2))
    assert gating.number == 2


def test_an_optimizer_that_steps_inside_the_cut_moves_whole_weights() -> None:
    inside, outside = network(), network()
    for model, in_block in ((inside, True), (outside, False)):
        optimizer = sgd(model)
        gating = GateTraining(model, optimizer)
        with gating.step():
            cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
            if in_block:
                optimizer.step()
        if not in_block:
            optimizer.step()
    assert_equal(inside.state_dict(), outside.state_dict())


@pytest.mark.parametrize("keyword", [False, True])
def test_a_closure_is_run_before_the_gradients_are_divided(keyword: bool) -> None:
    plain, closed = network(), network()
    run(GateTraining(plain, one := sgd(plain)), plain, one, range(3))
    optimizer = sgd(closed)
    gating = GateTraining(closed, optimizer)
    for step in range(3):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            with gating.step():
                loss = cross_entropy(closed(batch(step)[0]), batch(step)[1])
                loss.backward()
            return loss

        value = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert value is not None
    assert gating.number == 3
    assert_equal(plain.state_dict(), closed.state_dict())


@pytest.mark.parametrize("order", ["learned", "fixed"])
def test_a_training_that_resumes_is_one_that_never_stopped(order: Any) -> None:
    phase = GatePhase(order=order)
    model = network()
    optimizer = sgd(model)
    gating = GateTraining(model, optimizer, phase=phase)
    run(gating, model, optimizer, range(3))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), gating.state_dict()))
    run(gating, model, optimizer, range(3, 6))

    other = network(seed=1)
    other.load_state_dict(saved[0])
    resumed = sgd(other)
    resumed.load_state_dict(saved[1])
    again = GateTraining(other, resumed, phase=phase)
    again.load_state_dict(saved[2])
    run(again, other, resumed, range(3, 6))
    assert_equal(everything(model, gating), everything(other, again))
    assert gating.finish(Budget(0.3)) == again.finish(Budget(0.3))


Way = Callable[..., torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (torch.optim.AdamW, 1e-3),
        (torch.optim.AdamW, 3e-4),
        (torch.optim.Adam, 5e-3),
        (torch.optim.RMSprop, 1e-3),
    ],
)
def test_gates_learn_by_default_beside_an_optimizer_that_normalises(kind: Way, rate: float) -> None:
    moved, learned, by_size = order_learned(kind, rate, GatePhase())
    assert 0.04 < moved < 0.4
    assert learned < 0.97 * by_size


def test_a_rate_that_is_given_is_taken_as_it_is() -> None:
    for rate in (3.0, 300.0):
        model, other = network(), network()
        gates = []
        for net, kind in ((model, torch.optim.AdamW), (other, torch.optim.SGD)):
            optimizer = kind(net.parameters(), lr=1e-3)
            gating = GateTraining(net, optimizer, phase=GatePhase(gate_rate=rate))
            with gating.step():
                cross_entropy(net(batch(0)[0]), batch(0)[1]).backward()
            optimizer.step()
            gates.append(gating.state_dict()["gates"])
        torch.testing.assert_close(*gates)
    moved, _, _ = order_learned(torch.optim.AdamW, 1e-3, GatePhase(gate_rate=3.0))
    assert moved < 0.02


def order_learned(kind: Way, rate: float, phase: GatePhase) -> tuple[float, float, float]:
    """Learn an order on the digits; return how it differs from magnitude's, and both losses."""
    train = load("digits").train
    x, y = train.images.flatten(1) / 255, train.labels
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = kind(model.parameters(), lr=rate)
    gating = None
    for epoch in range(12):
        if epoch == 4:
            gating = GateTraining(model, optimizer, phase=phase)
        for rows in torch.randperm(len(x)).split(64):
            with gating.step() if gating else nullcontext():
                cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert gating is not None
    budget = Budget(0.1)
    sizes = {n: w.detach().abs() for n, w in parameters(model, gating.plan.names).items()}
    theirs = select(sizes, budget)
    by_size = copy.deepcopy(model)
    theirs.apply(by_size)
    ours = gating.finish(budget)
    both = sum(int((mask & theirs[name]).sum()) for name, mask in ours.items())
    with torch.no_grad():
        losses = [float(cross_entropy(net(x), y)) for net in (model, by_size)]
    return 1 - both / ours.kept, losses[0], losses[1]


def test_gates_learn_on_when_the_model_is_moved() -> None:
    """`model.to` puts new buffers in the place of the gates, and keeps the parameters."""

    def trained(moved: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        optimizer = sgd(model)
        gating = GateTraining(model, optimizer)
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        for step in range(4):
            if moved and step == 2:
                model.to(memory_format=torch.channels_last)
            with gating.step():
                model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return gating.state_dict()

    still, moved = trained(False), trained(True)
    for part in ("gates", "momentum"):
        for name, tensor in still[part].items():
            torch.testing.assert_close(moved[part][name], tensor, rtol=1e-3, atol=1e-6)
            assert tensor.any()
