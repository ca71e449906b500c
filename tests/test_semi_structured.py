"""2:4 weights become torch's semi-structured tensors, or it is said of each why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import prune, to_semi_structured
from secateur.errors import UsageError
from secateur.pruning.smaller import semi_structured
from secateur.pruning.smaller.semi_structured import is_two_of_four


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
    message = r"0\.weight: .*2:4.*2\.weight: .*cpu"
    with pytest.raises(UsageError, match=message):
        to_semi_structured(pruned)
    with pytest.raises(UsageError, match="no linear layer"):
        to_semi_structured(nn.ReLU())


@pytest.mark.parametrize(("whole", "kept"), [((2.0, 1.0), True), ((2.0, 2.0), False)])
def test_what_is_not_faster_stays_dense(
    monkeypatch: pytest.MonkeyPatch, whole: tuple[float, float], kept: bool
) -> None:
    """The choice, with times and tensors that need no GPU."""
    times = iter([(0.5, 0.4), (0.1, 0.1), whole])
    monkeypatch.setattr(semi_structured, "cuda_milliseconds", lambda *_, **__: next(times))
    monkeypatch.setattr(semi_structured, "_refusal", lambda weight: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", torch.neg)  # tells them apart
    net = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 128))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = to_semi_structured(net, example=torch.ones(4, 64))
    assert result.converted == (("0.weight",) if kept else ())
    assert result.milliseconds == {"0.weight": (0.5, 0.4), "1.weight": (0.1, 0.1)}
    assert result.whole == whole
    assert "dense is as fast: 0.100 ms against 0.100 ms" in result.left["1.weight"]
    assert ("whole" in result.left.get("0.weight", "")) != kept
    first = result.model.get_parameter("0.weight")
    assert torch.equal(first, -before["0.weight"] if kept else before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_layers_that_the_example_does_not_reach_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    monkeypatch.setattr(semi_structured, "cuda_milliseconds", lambda *_, **__: (2.0, 1.0))
    monkeypatch.setattr(semi_structured, "_refusal", lambda weight: None)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", torch.neg)
    result = to_semi_structured(Net(), example={"x": torch.ones(4, 8)})
    assert result.converted == ("used.weight",)
    assert result.left == {"unused.weight": "the example does not reach it"}


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


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_layers_that_are_faster_dense_stay_so(graph: bool) -> None:
    torch.manual_seed(0)
    small, wide = nn.Linear(64, 128), nn.Linear(128, 8192)
    big, last = nn.Linear(8192, 8192), nn.Linear(8192, 64)
    pruned, _ = prune(nn.Sequential(small, wide, big, last), pattern="2:4")
    dense = pruned.to("cuda", torch.float16).eval()
    x = torch.randn(8192, 64, device="cuda", dtype=torch.float16)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    result = to_semi_structured(dense, example=x, graph=graph)
    assert set(result.milliseconds) == {"1.weight", "2.weight", "3.weight"}
    faster = {name for name, (plain, sparse) in result.milliseconds.items() if sparse < plain}
    assert result.whole is not None or not faster
    won = result.whole is not None and result.whole[1] < result.whole[0]
    assert set(result.converted) == (faster if won else set())
    with torch.inference_mode():
        assert torch.allclose(result.model(x), dense(x), atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    with pytest.raises(UsageError, match="str"):
        to_semi_structured(dense, example="x")
