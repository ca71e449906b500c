"""The callback of the Hugging Face Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from integration_loop import assert_equal, network, nonzero, samples
from secateur.errors import FileError, UsageError
from secateur.pruning.files import stage_file
from secateur.pruning.gates.stages import UNPRUNED
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.selection import select


def transformers() -> Any:
    """Return the package; its own imports may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("accelerate")
        return pytest.importorskip("transformers")


def bert() -> Any:
    package = transformers()
    torch.manual_seed(0)
    config = package.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        num_labels=2,
    )
    return package.BertForSequenceClassification(config)  # with its dropout


class Tokens(torch.utils.data.Dataset[Any]):
    fails_at: int | None = None

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.randint(0, 20, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens[0] % 2}


def hf_callback(**options: Any) -> Any:
    transformers()
    from secateur.integrations.transformers import SecateurCallback

    defaults = {"keep": 0.3, "gate_start": 2, "prune_at": 4}
    return SecateurCallback(**{**defaults, **options})


def hf_trainer(model: Any, callback: Any, folder: Path, **options: Any) -> Any:
    package = transformers()
    defaults = {
        "num_train_epochs": 6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "weight_decay": 0.01,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    arguments = package.TrainingArguments(str(folder), **{**defaults, **options})
    return package.Trainer(
        model, arguments, train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[callback]
    )


@pytest.mark.parametrize("epoch", [1, 3, 5], ids=["plain", "gates", "held"])
def test_the_trainer_resumes_as_if_it_had_never_stopped(epoch: int, tmp_path: Path) -> None:
    model, callback = bert(), hf_callback()
    keys = list(model.state_dict())
    hf_trainer(model, callback, tmp_path, save_strategy="epoch").train()
    total = callback.masks.total
    assert nonzero(model, callback.masks) == callback.masks.kept == round(0.3 * total)
    assert list(model.state_dict()) == keys
    assert not [name for name, _ in model.named_buffers() if "gate" in name]

    folder = tmp_path / f"checkpoint-{4 * epoch}"
    assert (
        stage_file.read(folder / "secateur.safetensors")["stage"]
        == ("plain", "gates", "held")[epoch // 2]
    )
    resumed, again = bert(), hf_callback()
    hf_trainer(resumed, again, tmp_path).train(resume_from_checkpoint=str(folder))
    assert_equal(model, resumed)
    assert callback.masks == again.masks

    # Elsewhere, the callback is told where.
    moved = folder.rename(tmp_path / "moved")
    resumed, again = bert(), hf_callback(resume_from=moved)
    hf_trainer(resumed, again, tmp_path / "new").train(resume_from_checkpoint=str(moved))
    assert_equal(model, resumed)
    if epoch > 2:
        with pytest.raises(FileError, match=r"has no secateur\.safetensors"):
            hf_trainer(bert(), hf_callback(), tmp_path / "new").train(str(moved))


def test_the_trainer_counts_in_steps_too_and_ends_with_the_cut(tmp_path: Path) -> None:
    by_epochs, by_steps = bert(), bert()
    hf_trainer(by_epochs, hf_callback(prune_at=6), tmp_path).train()
    callback = hf_callback(gate_start=8, prune_at=24, unit="steps")
    hf_trainer(by_steps, callback, tmp_path).train()
    assert_equal(by_epochs, by_steps)
    assert nonzero(by_steps, callback.masks) == callback.masks.kept


def test_the_trainer_in_bf16_that_takes_back_its_best_model(tmp_path: Path) -> None:
    model, callback = bert(), hf_callback()
    hf_trainer(
        model,
        callback,
        tmp_path,
        bf16=True,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
    ).train()
    assert nonzero(model, callback.masks) == callback.masks.kept


def test_a_model_is_whole_when_it_is_used_after_an_exception(tmp_path: Path) -> None:
    model, callback = bert(), hf_callback(gate_start=0)
    names = ["bert.encoder.layer.0.output.dense.weight", "classifier.weight"]
    total = sum(model.get_parameter(name).numel() for name in names)
    failing = hf_trainer(model, callback, tmp_path)
    step = failing.compute_loss

    def fail(*args: Any, **options: Any) -> Any:
        step(*args, **options)
        assert nonzero(model, names) < total
        raise RuntimeError("on purpose")

    for use in ("save", "evaluate", "train", "restore"):
        failing.compute_loss = fail
        with pytest.raises(RuntimeError, match="on purpose"):
            failing.train()
        failing.compute_loss = step
        assert nonzero(model, names) < total
        if use == "save":
            failing.save_model(str(tmp_path / "saved"))
        if use == "evaluate":
            failing.evaluate()
        if use == "restore":
            callback.restore()
        if use != "train":
            assert nonzero(model, names) == total
    result = failing.train()
    assert result.global_step == 24
    assert nonzero(model, callback.masks) == callback.masks.kept
    assert len(model._forward_pre_hooks) == 0


def test_the_trainer_refuses_and_warns(tmp_path: Path) -> None:
    model = bert()
    with pytest.raises(UsageError, match="prune_at is 9, but the training has 6 epochs"):
        hf_trainer(model, hf_callback(prune_at=9), tmp_path).train()
    assert_equal(model, bert())

    refusing = hf_trainer(model, hf_callback(), tmp_path)
    refusing.args.deepspeed = "zero2.json"
    with pytest.raises(UsageError, match="argument deepspeed shards the training"):
        refusing.callback_handler.on_train_begin(refusing.args, refusing.state, refusing.control)

    class Stop(transformers().TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
            control.should_training_stop = True

    callback = hf_callback()
    stopping = hf_trainer(model, callback, tmp_path)
    stopping.add_callback(Stop())
    with pytest.warns(UserWarning, match=UNPRUNED):
        stopping.train()
    assert callback.masks is None


class Classifier(torch.nn.Module):
    """The network of the integrations' tests, as the trainer takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.cross_entropy(self.net(x), labels)}


def test_the_trainers_own_optimizer_moves_the_gates_by_default(tmp_path: Path) -> None:
    model, callback = Classifier(), hf_callback(gate_start=0, prune_at=20)
    sizes: dict[str, Tensor] = {}

    class Look(transformers().TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
            sizes.update({n: p.detach().abs() for n, p in model.named_parameters()})

    watched = hf_trainer(model, callback, tmp_path, num_train_epochs=20, learning_rate=1e-3)
    watched.train_dataset = [{"x": x, "labels": y} for x, y in samples()]
    watched.add_callback(Look())
    watched.train()
    theirs = select({name: sizes[name] for name in callback.masks}, Budget(0.3))
    both = sum(int((mask & theirs[name]).sum()) for name, mask in callback.masks.items())
    assert 0.06 < 1 - both / callback.masks.kept < 0.5


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_begins_anew_with_another_model(fails: bool, tmp_path: Path) -> None:
    callback, fresh = hf_callback(), hf_callback()
    first = hf_trainer(bert(), callback, tmp_path)
    if fails:

        class Fail(transformers().TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **loop: Any) -> None:
                if state.global_step == 10:
                    raise RuntimeError("on purpose")

        first.add_callback(Fail())
        with pytest.raises(RuntimeError, match="on purpose"):
            first.train()
    else:
        first.train()
    model, expected = bert(), bert()
    hf_trainer(model, callback, tmp_path).train()
    hf_trainer(expected, fresh, tmp_path).train()
    assert_equal(model, expected)
    assert callback.masks == fresh.masks


def test_a_model_that_was_cut_is_trained_on_with_its_zeros(tmp_path: Path) -> None:
    model, callback = bert(), hf_callback()
    hf_trainer(model, callback, tmp_path).train()
    masks = callback.masks
    hf_trainer(model, callback, tmp_path).train()
    assert callback.masks == masks
    assert nonzero(model, masks) == masks.kept
