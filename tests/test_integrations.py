"""Examples of integrations run, what is missing says so, Accelerate trains what a loop trains."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import forked
from integration_loop import PHASE, assert_equal, by_hand, loader, network
from secateur.pruning.gates.gate_training import GateTraining
from secateur.pruning.gates.mask_hold import MaskHold
from secateur.pruning.selecting.budget import Budget

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "plain_loop": "torch",
    "ddp_loop": "torch",
    "fsdp_loop": "torch",
    "lightning_callback": "lightning",
    "hf_trainer": "transformers",
    "accelerate_loop": "accelerate",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(EXAMPLES[example]) is None:
        pytest.skip(f"{EXAMPLES[example]} is not installed")
    script = ROOT / "examples" / f"{example}.py"
    done = forked.run(str(script), folder=tmp_path)
    assert done.status == 0, done.err
    assert "weights kept" in done.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["lightning", "transformers"])
def test_a_missing_package_says_what_to_install(module: str) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["lightning", "pytorch_lightning", "transformers"]))
from secateur.errors import UsageError
import secateur.integrations
try:
    import secateur.integrations.{module}
except ImportError as error:
    assert isinstance(error, UsageError), error
    print(error)
"""
    done = forked.run("-W", "error", "-c", code)
    assert f"pip install '.[{module}]'" in done.out, done.err


def test_the_page_shows_what_the_examples_run() -> None:
    page = "".join((ROOT / "docs" / f"{n}.md").read_text() for n in ("integrations", "scale"))
    shown = 0
    for example in EXAMPLES:
        _, *blocks = page.split(f"```python examples/{example}.py\n")
        code = (ROOT / "examples" / f"{example}.py").read_text()
        plain = "\n".join(line.strip() for line in code.splitlines())
        for block in blocks:
            lines = block.split("```")[0].splitlines()
            assert "\n".join(line.strip() for line in lines) in plain, example
            shown += 1
    assert shown == page.count("```python examples/") >= 4


def test_lightning_under_its_older_name(tmp_path: Path) -> None:
    if importlib.util.find_spec("pytorch_lightning") is None:
        pytest.skip("pytorch_lightning is not installed")
    code = (ROOT / "examples" / "lightning_callback.py").read_text()
    code = code.replace("import lightning\n", "import pytorch_lightning as lightning\n")
    assert "pytorch_lightning" in code
    ends = "    assert 'lightning' not in __import__('sys').modules\n"
    done = forked.run("-c", code + ends, folder=tmp_path)
    assert done.status == 0, done.err
    assert "weights kept" in done.out


def test_accelerate_trains_exactly_what_a_plain_loop_trains() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    inner = network()
    model, optimizer, data = accelerator.prepare(
        inner, torch.optim.SGD(inner.parameters(), 0.1, 0.9, weight_decay=0.01), loader()
    )
    gating, masks = None, None
    for epoch in range(6):
        if epoch == 2:
            gating = GateTraining(model, optimizer, phase=PHASE)
        if epoch == 4:
            assert gating is not None
            masks, gating = gating.finish(Budget(0.3)), None
            MaskHold(model, optimizer, masks)
        for x, y in data:
            with accelerator.accumulate(model):
                with gating.step() if gating else nullcontext():
                    accelerator.backward(cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    expected, expected_masks = by_hand(6, 2, 4, 0.3)
    assert_equal(inner, expected)
    assert masks == expected_masks
