"""Gates in a loop of Accelerate: the model and the optimizer may be those that it prepared.

pip install 'secateur[accelerate]'
python examples/accelerate_loop.py
"""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from secateur import Budget, GatePhase
from secateur.data.digits import load
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold

EPOCHS, GATES_FROM, CUT_AT = 9, 3, 6
torch.manual_seed(0)
torch.set_num_threads(1)

digits = load()
data = TensorDataset(digits.train.images.flatten(1) / 255, digits.train.labels)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(
    *(nn.Linear(64, 128), nn.ReLU()),
    *(nn.Linear(128, 128), nn.ReLU()),
    nn.Linear(128, 10),
)
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
model, optimizer, loader = accelerator.prepare(
    model, optimizer, DataLoader(data, batch_size=32, shuffle=True)
)

gating = None
for epoch in range(EPOCHS):
    if epoch == GATES_FROM:
        gating = GateTraining(model, optimizer, phase=GatePhase(lowest_keep=0.05))
    if epoch == CUT_AT:
        masks = gating.finish(Budget(0.1))
        gating = None
        MaskHold(model, optimizer, masks)
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            with nullcontext() if gating is None else gating.step():
                accelerator.backward(cross_entropy(model(inputs), targets))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

model = accelerator.unwrap_model(model)
kept = sum(int((model.get_parameter(name) != 0).sum()) for name in masks)
assert kept == masks.kept == round(0.1 * masks.total)
print(f"{kept:,} of {masks.total:,} weights kept")
