"""The published ResNet-20 loads into the built-in net, strictly, and computes what it did."""

import os
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur import nets
from secateur.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
FILE = "resnet20-cifar10.safetensors"

# Of `waves`, computed in float64 when the weights were measured at 91.73 % on the test set.
LOGITS = (
    (-0.7801, -0.9283, 1.0585, -3.8757, 6.5965, -2.8999, -0.1108, 2.4582, 0.5336, -2.1035),
    (0.2784, -1.0890, 0.7648, -4.6424, 2.8305, -5.6699, 0.4863, 0.3884, 4.0934, 2.5398),
)


@pytest.fixture(scope="module")
def weights():
    folders = [ROOT.parent / "shared" / "pretrained", ROOT / "shared" / "pretrained"]
    if chosen := os.environ.get("SECATEUR_PRETRAINED"):
        folders = [Path(chosen)]
    for folder in folders:
        if (folder / FILE).is_file():
            return folder / FILE
    pytest.skip(f"no {FILE}; set SECATEUR_PRETRAINED to the folder that holds it")


def waves():
    """Images [2, 3, 32, 32] that need no random numbers."""
    return torch.sin(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) * 0.01).view(2, 3, 32, 32)


def loaded(weights):
    model = nets.build("resnet20")
    model.load_state_dict(load_file(weights), strict=True)
    return model.eval()


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_logits_are_those_recorded(weights, dtype, within):
    images = waves().to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = loaded(weights).to(dtype)(images)
    assert logits.shape == (2, 10)
    torch.testing.assert_close(logits, torch.tensor(LOGITS, dtype=dtype), rtol=0, atol=within)


def test_wrong_net_is_refused(weights):
    with pytest.raises(RuntimeError, match="Missing key"):
        nets.build("resnet32").load_state_dict(load_file(weights))


@pytest.mark.network
def test_accuracy_on_the_test_set(weights):
    from secateur import data

    try:
        cifar = data.load("cifar10", progress=False)
    except DataError as error:
        pytest.skip(f"no CIFAR-10: {error}")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "pretrained.py"))
    cifar = replace(cifar, mean=benchmark["MEAN"], std=benchmark["STD"])
    percent = benchmark["accuracy"](weights, cifar.evaluation("test"))
    # Two images either way: float32 sums in another order on another processor.
    assert percent == pytest.approx(91.73, abs=0.02)


@pytest.mark.network
@pytest.mark.parametrize("keep", [pytest.param(1.0, marks=pytest.mark.long), 0.4])
def test_compiling_costs_no_accuracy(weights, keep):
    import secateur
    from secateur import data

    try:
        cifar = data.load("cifar10", progress=False)
    except DataError as error:
        pytest.skip(f"no CIFAR-10: {error}")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "pretrained.py"))
    cifar = replace(cifar, mean=benchmark["MEAN"], std=benchmark["STD"])
    model = loaded(weights)
    names = secateur.prunable(model).names
    scores = {n: p.detach().abs() for n, p in model.named_parameters() if n in names}
    secateur.select(scores, secateur.Budget(keep)).apply(model)
    right, compiled, other = 0, 0, 0
    with secateur.compile(model, torch.zeros(1, 3, 32, 32)) as engine, torch.inference_mode():
        for images, labels in cifar.evaluation("test"):
            wanted = model(images).argmax(1)
            got = torch.from_numpy(engine(images.contiguous().numpy())).argmax(1)
            right += int((wanted == labels).sum())
            compiled += int((got == labels).sum())
            other += int((got != wanted).sum())
    assert abs(right - compiled) <= 2
    assert other <= 2


@pytest.mark.network
def test_int8_costs_less_than_0_3_points(weights, monkeypatch):
    import secateur
    from secateur import data
    from secateur.export import to_onnx

    pytest.importorskip("onnxruntime")
    try:
        cifar = data.load("cifar10", progress=False)
    except DataError as error:
        pytest.skip(f"no CIFAR-10: {error}")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "quantize.py"))
    cifar = replace(cifar, mean=benchmark["MEAN"], std=benchmark["STD"])
    content = to_onnx(loaded(weights), torch.zeros(1, 3, 32, 32))
    made = secateur.quantize(content, benchmark["images"](cifar, 256, 0))
    assert not made.fp32
    found = benchmark["answers"](benchmark["ours"](made.content), cifar)
    assert benchmark["accuracy"](found, cifar) >= 91.73 - 0.3
