"""Gates in a Hugging Face Trainer: one callback. A tiny GPT-2 made from its config: no download.

pip install 'secateur[transformers]'
python examples/hf_trainer.py
"""

import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from secateur import GatePhase
from secateur.integrations.transformers import SecateurCallback


class Counting(Dataset):
    """Numbers that go up by a fixed stride, modulo 32: what comes next can be learned."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, stride = index % 32, 1 + index // 32 % 3
        tokens = (start + stride * torch.arange(12)) % 32
        return {"input_ids": tokens, "labels": tokens}


if __name__ == "__main__":
    torch.set_num_threads(1)
    set_seed(0)
    config = GPT2Config(
        vocab_size=32,
        n_positions=12,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)

    # AdamW's rates are for gradients that it normalises; the gates' rate is suited to it by itself.
    phase = GatePhase(lowest_keep=0.2)
    pruning = SecateurCallback(keep=0.3, gate_start=2, prune_at=4, phase=phase)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=6,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=2,
                learning_rate=3e-3,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
                logging_strategy="no",
            ),
            train_dataset=Counting(),
            callbacks=[pruning],
        )
        result = trainer.train()

    masks = pruning.masks
    kept = sum(int((model.get_parameter(name) != 0).sum()) for name in masks)
    assert kept == masks.kept == round(0.3 * masks.total)
    print(f"{kept:,} of {masks.total:,} weights kept, mean loss {result.training_loss:.2f}")
