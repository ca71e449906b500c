"""Model files: every bit comes back into a plain module, and nothing else gets in."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from secateur import Budget, Gates, Masks, prunable, select
from secateur.errors import FileError, UsageError
from secateur.pruning.criteria import find
from secateur.pruning.files.model_file import load, packed_bytes, save
from secateur.pruning.files.reading import load_masks, read, read_info


class Net(nn.Module):
    """Convolutions, norms, a tied head, a module used under two names."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.table = nn.Embedding(11, width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.table.weight
        self.body = nn.Linear(width, width)
        self.again = self.body
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("mask", torch.tensor([True, False]))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def cut(model: nn.Module, keep: float = 0.1) -> Masks:
    plan = prunable(model, include_first=True)
    masks = select(find("magnitude").scores(model, plan.names), Budget(keep), axes=plan.axes)
    masks.apply(model)
    return masks


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def content(state: dict[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {n: (t.dtype, tuple(t.shape), bits(t)) for n, t in state.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_model_comes_back_bit_for_bit(path: Path) -> None:
    model = net()
    cut(model)
    save(model, path)
    other = net(1).train()
    optimised = list(other.parameters())
    assert load(path, other) is other
    assert content(other.state_dict()) == content(model.state_dict())
    assert list(other.state_dict()) == list(model.state_dict())
    assert other.training
    assert [id(p) for p in other.parameters()] == [id(p) for p in optimised]
    state, _ = read(path)
    assert content(state) == content(model.state_dict())
    assert list(state) == list(model.state_dict())
    assert state["head.weight"] is state["table.weight"]
    assert state["again.weight"] is state["body.weight"]


def test_a_state_dict_can_be_saved_too(path: Path) -> None:
    model = net()
    save(model.state_dict(), path)
    assert content(load(path, net(1)).state_dict()) == content(model.state_dict())


SPECIAL = [0x80000000, 0x7FC00001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 1, 0x7F800001, 0x807FFFFF]


def test_what_is_no_number_survives(path: Path) -> None:
    layer = nn.Linear(40, 20)
    raw = np.zeros(800, np.uint32)
    raw[np.arange(8) * 97] = SPECIAL
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(raw.view(np.float32)).reshape(20, 40))
    save(layer, path)
    back = load(path, nn.Linear(40, 20))
    assert isinstance(back, nn.Linear)
    assert np.array_equal(back.weight.detach().numpy().view(np.uint32).reshape(-1), raw)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(24.0).reshape(4, 6).T,
        torch.arange(6).to(torch.int16),
        torch.tensor(7, dtype=torch.uint8),
        torch.tensor([1 + 2j, 0, 0]),
        torch.tensor([1 + 2j], dtype=torch.complex128).conj(),
        torch.tensor([0.5, 0, -3]).to(torch.float8_e4m3fn),
        torch.zeros(3, 0, 2, dtype=torch.float64),
        torch.zeros(5000),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_tensors_of_every_kind(tensor: Tensor, path: Path) -> None:
    save({"x": tensor}, path)
    state, _ = read(path)
    assert content(state) == content({"x": tensor.resolve_conj()})


def test_sizes(path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.BatchNorm1d(400), nn.Linear(400, 300))
    dense = len(safetensors.torch.save(model.state_dict()))
    masks = cut(model, 0.1)
    for dtype, limit in ((None, 0.16), (torch.float16, 0.09), (torch.bfloat16, 0.09)):
        save(model, path, masks=masks, dtype=dtype)
        assert path.stat().st_size <= limit * dense
        assert path.stat().st_size == packed_bytes(model, masks=masks, dtype=dtype)
        assert load_masks(path) == masks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype, path: Path) -> None:
    model = net()
    masks = cut(model, 0.5)
    with torch.no_grad():
        model.conv.weight[masks["conv.weight"]] = 1e-30  # vanishes in float16
        model.norm.running_var.fill_(1 / 3)
    save(model, path, masks=masks, dtype=dtype)
    assert load_masks(path) == masks
    state, _ = read(path)
    for name, tensor in model.state_dict().items():
        small = tensor.to(dtype) if tensor.is_floating_point() and tensor.dim() > 1 else tensor
        assert content({"": state[name]}) == content({"": small})
    wide = load(path, net(1))
    assert wide.get_parameter("body.weight").dtype == torch.float32
    assert torch.equal(wide.get_parameter("body.weight"), state["body.weight"].float())


def test_too_large_for_sixteen_bits(path: Path) -> None:
    model = {"w": torch.tensor([[1e6, math.inf]])}
    with pytest.raises(UsageError, match=r"'w' has values too large for torch\.float16"):
        save(model, path, dtype=torch.float16)
    save(model, path, dtype=torch.bfloat16)
    with pytest.raises(UsageError, match=r"dtype is torch\.int8"):
        save(model, path, dtype=torch.int8)


def test_masks_are_read_off_or_stored(path: Path) -> None:
    model = net()
    masks = cut(model, 0.3)
    with torch.no_grad():
        model.body.weight[masks["body.weight"].nonzero()[0].tolist()[0]] = 0  # kept, but zero
    model.conv.weight.data[~masks["conv.weight"]] = -0.0  # cut
    save(model, path, masks=masks)
    assert load_masks(path) == masks
    state, _ = read(path)
    assert not state["conv.weight"][~masks["conv.weight"]].view(torch.int32).any()
    save(model, path)
    with pytest.raises(FileError, match="holds no masks"):
        load_masks(path)


def test_masks_that_do_not_belong(path: Path) -> None:
    model = net()
    masks = cut(copy.deepcopy(model))
    with pytest.raises(UsageError, match="apply the masks"):
        save(model, path, masks=masks)
    with pytest.raises(UsageError, match="mask of 'nothing'"):
        save(model, path, masks=Masks({"nothing": torch.ones(1, dtype=torch.bool)}))
    with pytest.raises(UsageError, match=r"'conv.weight' has shape \(2,\)"):
        save(model, path, masks=Masks({"conv.weight": torch.ones(2, dtype=torch.bool)}))
    both = torch.zeros(8, 8, dtype=torch.bool)
    with pytest.raises(UsageError, match="different masks"):
        save(model, path, masks=Masks({"body.weight": both, "again.weight": ~both}))
    assert not path.exists()


def test_gates(path: Path) -> None:
    model = net()
    plain = list(model.state_dict())
    gates = Gates.attach(model, ["body.weight", "conv.weight"])
    for gate in gates.values().values():
        gate.normal_()
    save(model, path)
    assert list(read(path)[0]) == plain
    with pytest.raises(FileError, match=r"weight_gate' is missing; take the model's gates away"):
        load(path, model)
    save(model, path, gates=True, dtype=torch.float16)
    with_gates = load(path, net(1))
    values = Gates.of(with_gates).values()
    assert {n: bits(v) for n, v in values.items()} == {
        n: bits(v) for n, v in gates.values().items()
    }


def test_tied_weights_are_tied_again(path: Path) -> None:
    model = net()
    save(model, path)
    other = net(1)
    other.head.weight = nn.Parameter(torch.zeros(11, 8))  # untied
    other.again = nn.Linear(8, 8)
    load(path, other)
    assert other.head.weight is other.table.weight
    assert other.again.weight is other.body.weight
    assert content(other.state_dict()) == content(model.state_dict())


def test_untied_weights_do_not_get_into_tied_ones(path: Path) -> None:
    apart = net()
    apart.head.weight = nn.Parameter(apart.table.weight.detach() + 1)
    save(apart, path)
    tied = net(1)
    before = content(tied.state_dict())
    with pytest.raises(FileError, match=r"'head.weight' and 'table.weight' differ"):
        load(path, tied)
    assert content(tied.state_dict()) == before
    apart.head.weight = nn.Parameter(apart.table.weight.detach().clone())
    save(apart, path)
    load(path, tied)
    assert tied.head.weight is tied.table.weight


def other_model(change: Callable[[Net], None]) -> Net:
    model = net(1)
    change(model)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m, "more", nn.Linear(2, 2)), "'more.weight' is missing"),
        (lambda m: delattr(m, "conv"), "'conv.weight' is of no parameter or buffer"),
        (lambda m: setattr(m, "conv", nn.Conv2d(3, 9, 3)), r"\(8, 3, 3, 3\), but in the model"),
        (lambda m: m.half(), r"cannot hold; convert the model with model.to\(torch.float32\)"),
    ],
)
def test_another_model_is_refused_and_not_changed(
    change: Callable[[Net], None], message: str, path: Path
) -> None:
    save(net(), path)
    model = other_model(change)
    before = content(model.state_dict())
    with pytest.raises(FileError, match=message):
        load(path, model)
    assert content(model.state_dict()) == before


def quantised() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is going away
        return {"x": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its interface may change
        return nn.LazyLinear(2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (lazy, "'weight' is not initialised yet"),
        (lambda: {"x": torch.eye(2).to_sparse()}, "'x' has the layout"),
        (quantised, "'x' is .*qint8"),
        (lambda: {"x": 3}, "'x' is no tensor but int"),
        (lambda: {"__metadata__": torch.ones(1)}, "rename it"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(model: Any, message: str, path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        save(model(), path)
    assert not path.exists()


def test_what_is_known_comes_back(path: Path) -> None:
    budget = Budget(0.1, ("a.*", "b.*"), 0.01, "weight", {"head.*": 0.5})
    notes = {"seed": 3, "data": {"name": "digits", "classes": [1, 2]}, "loss": 0.25}
    save(
        net(),
        path,
        budget=budget,
        architecture=("collections:OrderedDict", {"width": 4}),
        provenance=notes,
    )
    info = read_info(path)
    assert info.budget == budget
    assert info.provenance == notes
    assert info.architecture == ("collections:OrderedDict", {"width": 4})
    assert info.versions["torch"] == str(torch.__version__)
    assert info.date.endswith("+00:00")
    assert info == read(path)[1]
    save(net(), path, budget=Budget(pattern="2:4"), architecture="a.b:c.d")
    assert read_info(path).budget == Budget(pattern="2:4")
    assert read_info(path).architecture == ("a.b:c.d", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"architecture": "no colon"}, "architecture is 'no colon'"),
        ({"architecture": "os:system; x"}, "architecture is"),
        ({"architecture": ("a:b", {"width": {1, 2}})}, "cannot be written as JSON"),
        ({"provenance": {"loss": math.nan}}, "cannot be written as JSON"),
        ({"provenance": [1]}, "list is no mapping"),
    ],
)
def test_what_json_cannot_hold_is_refused(given: Any, message: str, path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        save(net(), path, **given)
    assert not path.exists()


def test_code_runs_only_for_those_who_trust(path: Path) -> None:
    reference = f"{__name__}:Net"
    save(Net(4), path, architecture=(reference, {"width": 4}))
    with pytest.raises(UsageError, match=r"test_model_files.Net\(width=4\).*trust=True"):
        load(path)
    trusted = load(path, trust=True)
    assert type(trusted).__name__ == "Net"
    assert content(trusted.state_dict()) == content(read(path)[0])
    built = load(path, factory=Net)
    assert content(built.state_dict()) == content(read(path)[0])
    save(Net(4), path)
    for trust in (False, True):
        with pytest.raises(UsageError, match="build the model and give it"):
            load(path, trust=trust)


@pytest.mark.parametrize("reference", ["no_such_module:x", "math:no_such", "math:pi", "math:sqrt"])
def test_references_that_lead_nowhere(reference: str, path: Path) -> None:
    save(net(), path, architecture=(reference, {"width": 4}))
    with pytest.raises(FileError, match="cannot be built"):
        load(path, trust=True)


def test_what_is_built_must_be_a_module(path: Path) -> None:
    save(net(), path, architecture="builtins:dict")
    with pytest.raises(FileError, match="built no module"):
        load(path, trust=True)


def test_wrapped_models_keep_their_own_names(path: Path) -> None:
    model = net()
    save(torch.optim.swa_utils.AveragedModel(model), path)
    assert list(read(path)[0]) == list(model.state_dict())
    wrapped = nn.DataParallel(net(1))
    assert load(path, wrapped) is wrapped
    assert content(wrapped.module.state_dict()) == content(model.state_dict())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model, path: save((model, 3), path), r"model is \(Linear.*, 3\), but must be"),
        (lambda model, path: save(model, path, masks="all"), "masks is 'all', but must be Masks"),
        (
            lambda model, path: load(path, type(model)),
            "model is of type type, but must be",
        ),
    ],
)
def test_what_is_no_model_or_mask_is_refused(ask: Any, message: str, path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        ask(nn.Linear(3, 2), path)
    assert not path.exists()
