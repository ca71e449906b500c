"""The Lightning callback: what it trains is what a plain loop trains."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from integration_loop import PHASE, TOTAL, assert_equal, by_hand, loader, network, nonzero
from secateur.errors import UsageError
from secateur.pruning.gates.stages import UNPRUNED
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.selection import select


def lightning() -> Any:
    """Return the package; its own imports may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lightning")


def module(**options: Any) -> Any:
    class Module(lightning().LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.fails_at: int | None = None
            self.empty_at: int | None = None
            for name, value in options.items():
                setattr(self, name, value)

        def training_step(self, batch: Any, index: int) -> Tensor | None:
            loss = cross_entropy(self.net(batch[0]), batch[1])
            if self.fails_at == self.global_step:
                raise RuntimeError("on purpose")
            return None if self.empty_at == self.global_step else loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1, 0.9, weight_decay=0.01)

    return Module()


def trainer(callback: Any, epochs: int = 6, **options: Any) -> Any:
    defaults = {
        "max_epochs": epochs,
        "accumulate_grad_batches": 2,
        "gradient_clip_val": 0.5,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [callback],
    }
    return lightning().Trainer(**{**defaults, **options})


def lightning_callback(
    keep: float = 0.3, gate_start: float = 2, prune_at: float = 4, **options: Any
) -> Any:
    lightning()
    from secateur.integrations.lightning import SecateurCallback

    return SecateurCallback(keep, gate_start=gate_start, prune_at=prune_at, phase=PHASE, **options)


quiet_lightning = pytest.mark.filterwarnings(
    r"ignore:.*does not have many workers",
    r"ignore:.*isinstance\(treespec, LeafSpec\)` is deprecated",
    r"ignore:The number of training batches",
    r"ignore:.*callbacks used to create the checkpoint need to be provided",
)


@quiet_lightning
@pytest.mark.parametrize("prune_at", [4, 6])
def test_lightning_trains_exactly_what_a_plain_loop_trains(prune_at: int) -> None:
    model, callback = module(), lightning_callback(prune_at=prune_at)
    keys = list(model.state_dict())
    trainer(callback).fit(model, loader())
    expected, masks = by_hand(6, 2, prune_at, 0.3)
    assert_equal(model.net, expected)
    assert [callback.masks[f"net.{name}"].equal(masks[name]) for name in masks] == [True, True]
    assert callback.stage == "held"
    assert nonzero(model, callback.masks) == callback.masks.kept == round(0.3 * TOTAL)
    assert list(model.state_dict()) == keys
    assert not list(model.buffers())


@quiet_lightning
def test_lightning_counts_in_steps_too() -> None:
    by_epochs, by_steps = module(), module()
    trainer(lightning_callback()).fit(by_epochs, loader())
    callback = lightning_callback(gate_start=8, prune_at=16, unit="steps")
    trainer(callback, epochs=-1, max_steps=24).fit(by_steps, loader())
    assert_equal(by_epochs, by_steps)


@quiet_lightning
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lightning_in_mixed_precision(precision: str) -> None:
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":
        lightning()
        from lightning.pytorch.plugins import MixedPrecision

        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows at first
        options = {"plugins": [MixedPrecision(precision, "cpu", scaler)]}
    model, callback = module(), lightning_callback(gate_start=0)
    trainer(callback, **options).fit(model, loader())
    assert nonzero(model, callback.masks) == round(0.3 * TOTAL)
    reference, _ = by_hand(6, 0, 4, 0.3)
    close = [
        torch.allclose(a, b, atol=0.1)
        for a, b in zip(model.parameters(), reference.parameters(), strict=True)
    ]
    if precision == "16-mixed":
        assert scaler.get_scale() < 2.0**30
    else:
        assert sum(close) >= 4


@quiet_lightning
@pytest.mark.parametrize("epoch", [0, 2, 4], ids=["plain", "gates", "held"])
def test_lightning_resumes_as_if_it_had_never_stopped(epoch: int, tmp_path: Path) -> None:
    lightning()
    from lightning.pytorch.callbacks import ModelCheckpoint

    model, callback = module(), lightning_callback()
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(callback, callbacks=[callback, saving], enable_checkpointing=True).fit(model, loader())
    path = tmp_path / f"epoch={epoch}.ckpt"
    saved = torch.load(path, weights_only=True)  # nothing in it needs a pickle
    assert list(saved["state_dict"]) == list(model.state_dict())
    assert saved["callbacks"]["SecateurCallback"]["stage"] == ("plain", "gates", "held")[epoch // 2]

    resumed, again = module(), lightning_callback()
    trainer(again).fit(resumed, loader(), ckpt_path=path)
    assert_equal(model, resumed)
    assert callback.masks == again.masks


@quiet_lightning
def test_lightning_leaves_whole_weights_after_an_exception_and_can_go_on() -> None:
    model, callback = module(fails_at=10), lightning_callback()
    before = [copy.deepcopy(p) for p in model.parameters()]
    with pytest.raises(RuntimeError, match="on purpose"):
        trainer(callback).fit(model, loader())
    assert nonzero(model, ["net.2.weight", "net.4.weight"]) == TOTAL
    assert not list(model.buffers())
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model.fails_at = None
    assert callback.stage == "gates"
    trainer(callback).fit(model, loader())  # from its first epoch, but with the gates so far
    assert nonzero(model, callback.masks) == round(0.3 * TOTAL)


@quiet_lightning
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_lightning_where_a_step_has_nothing_to_learn() -> None:
    model, callback = module(empty_at=10), lightning_callback(prune_at=6)
    trainer(callback, accumulate_grad_batches=1).fit(model, loader())
    assert nonzero(model, callback.masks) == callback.masks.kept == round(0.3 * TOTAL)


@quiet_lightning
def test_lightning_refuses_what_cannot_work_before_it_trains() -> None:
    model = module()
    with pytest.raises(UsageError, match="prune_at is 4, but the training has 3 epochs"):
        trainer(lightning_callback(), epochs=3).fit(model, loader())
    manual = module(automatic_optimization=False)
    with pytest.raises(UsageError, match="automatic optimisation"):
        trainer(lightning_callback(), gradient_clip_val=None, accumulate_grad_batches=1).fit(
            manual, loader()
        )
    assert_equal(model, module())
    callback = lightning_callback()

    class FSDPStrategy:
        """Named as the real one, which takes a GPU to be made."""

    class Trainer:
        strategy, fast_dev_run = FSDPStrategy(), False

    with pytest.raises(UsageError, match="FSDPStrategy shards the model"):
        callback.setup(Trainer(), model, "fit")


@quiet_lightning
def test_lightning_that_ends_early_warns_or_cuts() -> None:
    model, callback = module(), lightning_callback()
    with pytest.warns(UserWarning, match=UNPRUNED):
        trainer(callback, max_steps=5).fit(model, loader())
    assert callback.masks is None
    model, callback = module(), lightning_callback()
    trainer(callback, max_steps=10).fit(model, loader())
    assert nonzero(model, callback.masks) == round(0.3 * TOTAL)


@quiet_lightning
@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_begins_anew_with_another_module(fails: bool) -> None:
    callback, fresh = lightning_callback(), lightning_callback()
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            trainer(callback).fit(module(fails_at=10), loader())
        assert callback.stage == "gates"
    else:
        trainer(callback).fit(module(), loader())
        assert callback.stage == "held"
    model, expected = module(), module()
    trainer(callback).fit(model, loader())
    trainer(fresh).fit(expected, loader())
    assert_equal(model, expected)
    assert callback.masks == fresh.masks


@quiet_lightning
def test_a_module_that_was_cut_is_trained_on_with_its_zeros() -> None:
    model, callback = module(), lightning_callback()
    trainer(callback).fit(model, loader())
    masks = callback.masks
    trainer(callback).fit(model, loader())
    assert callback.masks == masks
    assert nonzero(model, masks) == masks.kept
    other = module()
    assert nonzero(other, masks) == TOTAL


@quiet_lightning
def test_a_callback_that_was_used_resumes_from_a_checkpoint(tmp_path: Path) -> None:
    lightning()
    from lightning.pytorch.callbacks import ModelCheckpoint

    model, callback = module(), lightning_callback()
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(callback, callbacks=[callback, saving], enable_checkpointing=True).fit(model, loader())
    masks = callback.masks
    for epoch in (2, 4, 0):
        resumed = module()
        trainer(callback).fit(resumed, loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert_equal(model, resumed)
        assert callback.masks == masks


@quiet_lightning
def test_lightning_with_adamw_moves_the_gates_by_default() -> None:
    model = module()
    model.configure_optimizers = lambda: torch.optim.AdamW(model.parameters(), 1e-3)
    lightning()
    from secateur.integrations.lightning import SecateurCallback

    class Look(SecateurCallback):  # type: ignore[misc]
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.sizes = {n: p.detach().abs() for n, p in pl_module.named_parameters()}
            super().on_train_end(trainer, pl_module)

    callback = Look(0.3, gate_start=0, prune_at=20)
    trainer(callback, epochs=20).fit(model, loader())
    theirs = select({name: callback.sizes[name] for name in callback.masks}, Budget(0.3))
    both = sum(int((mask & theirs[name]).sum()) for name, mask in callback.masks.items())
    assert 0.06 < 1 - both / callback.masks.kept < 0.5
