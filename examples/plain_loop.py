"""Gates in a plain training loop, with gradient accumulation and clipping.

python examples/plain_loop.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur import Budget, GatePhase
from secateur.data.digits import load
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold

EPOCHS, GATES_FROM, CUT_AT = 9, 3, 6
torch.manual_seed(0)
torch.set_num_threads(1)

digits = load()
images, labels = digits.train.images.flatten(1) / 255, digits.train.labels
model = nn.Sequential(
    *(nn.Linear(64, 128), nn.ReLU()),
    *(nn.Linear(128, 128), nn.ReLU()),
    nn.Linear(128, 10),
)
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)


def backward(batch: Tensor) -> None:
    (cross_entropy(model(images[batch]), labels[batch]) / 2).backward()


gating = None
for epoch in range(EPOCHS):
    if epoch == GATES_FROM:
        gating = GateTraining(model, optimizer, phase=GatePhase(lowest_keep=0.05))
    if epoch == CUT_AT:
        masks = gating.finish(Budget(0.1))  # exactly 10 % of the weights are left
        gating = None
        MaskHold(model, optimizer, masks)
    for batch in torch.randperm(len(images)).split(64):
        for part in batch.chunk(2):  # two micro-batches to an optimizer step
            if gating is None:
                backward(part)
            else:
                with gating.step():  # inside, only the drawn part of the weights is there
                    backward(part)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()  # moves weights and gates, or puts the zeros back
        optimizer.zero_grad()

kept = sum(int((model.get_parameter(name) != 0).sum()) for name in masks)
assert kept == masks.kept == round(0.1 * masks.total)
with torch.no_grad():
    right = model(digits.test.images.flatten(1) / 255).argmax(1) == digits.test.labels
print(f"{kept:,} of {masks.total:,} weights kept, test accuracy {right.float().mean():.1%}")
