"""2:4 weights become torch's semi-structured tensors, or it is said of each why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import prune, to_semi_structured
from secateur.errors import UsageError
from secateur.pruning.semi_structured import is_two_of_four


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.Linear(128, 10))


def test_what_is_two_of_four() -> None:
    pruned, _ = prune(network(), pattern="2:4")
    assert is_two_of_four(pruned.get_parameter("2.weight"))
    assert not is_two_of_four(pruned.get_parameter("0.weight"))  # the first layer is left whole
    assert is_two_of_four(torch.zeros(3, 8))
    assert not is_two_of_four(torch.zeros(3, 6))
    assert not is_two_of_four(torch.tensor([[1.0, 1.0, 1.0, 0.0]]))


def test_a_model_on_the_cpu_is_refused_with_each_layers_reason() -> None:
    pruned, _ = prune(network(), pattern="2:4")
    message = r"0\.weight: not 2:4.*2\.weight: on cpu; move the model to a CUDA device"
    with pytest.raises(UsageError, match=message):
        to_semi_structured(pruned)
    with pytest.raises(UsageError, match="it has none"):
        to_semi_structured(nn.ReLU())


@pytest.mark.gpu
def test_outputs_on_a_gpu_are_those_of_the_dense_model() -> None:
    pruned, _ = prune(network(), pattern="2:4")
    dense = pruned.to("cuda", torch.float16).eval()
    result = to_semi_structured(dense)
    assert result.converted == ("2.weight",)
    assert set(result.left) == {"0.weight", "3.weight"}
    x = torch.randn(32, 64, device="cuda", dtype=torch.float16)
    with torch.inference_mode():
        assert torch.allclose(result.model(x), dense(x), atol=1e-2)
