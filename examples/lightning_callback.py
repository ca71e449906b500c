"""Gates in a Lightning training: one callback, and the module stays as it is.

pip install 'secateur[lightning]'
python examples/lightning_callback.py
"""

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from secateur import GatePhase
from secateur.data.digits import load
from secateur.integrations.lightning import SecateurCallback


class Digits(lightning.LightningModule):
    """A LightningModule like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(64, 128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.ReLU()),
            nn.Linear(128, 10),
        )

    def training_step(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    digits = load()
    data = TensorDataset(digits.train.images.flatten(1) / 255, digits.train.labels)

    # Three epochs train plainly, three learn gates, and three train on under the masks.
    phase = GatePhase(lowest_keep=0.05)
    pruning = SecateurCallback(keep=0.1, gate_start=3, prune_at=6, phase=phase)
    trainer = lightning.Trainer(
        max_epochs=9,
        callbacks=[pruning],
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Digits()
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))

    masks = pruning.masks
    kept = sum(int((model.get_parameter(name) != 0).sum()) for name in masks)
    assert kept == masks.kept == round(0.1 * masks.total)
    print(f"{kept:,} of {masks.total:,} weights kept")
