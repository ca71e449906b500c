"""The contract of every criterion, and what each one gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel

from secateur import Budget, Gates, prunable, select
from secateur.errors import ScoreError, UsageError
from secateur.model.parameters import DTYPES
from secateur.nets import NETS, build
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA, find


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(5, 2))
    Gates.attach(model, ["1.weight", "3.weight"])
    return model


def test_the_registry_names_every_criterion() -> None:
    assert set(CRITERIA) == {"gate", "lamp", "magnitude", "obs", "random", "taylor", "wanda"}
    assert {n for n, c in CRITERIA.items() if c.needs == "inputs"} == {"wanda"}
    assert {n for n, c in CRITERIA.items() if c.needs == "gradients"} == {"obs", "taylor"}
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert criterion is find(name)
        assert criterion.description.endswith(".")
        assert "\n" not in criterion.description
    with pytest.raises(
        UsageError, match="'magnitud'; choose one of gate, lamp, magnitude, obs, random"
    ):
        find("magnitud")


def examples(shape: tuple[int, ...], classes: int, count: int = 32) -> Calibration:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, *shape, generator=generator)
    targets = torch.randint(0, classes, (count,), generator=generator)
    return Calibration((inputs,), (targets,), F.cross_entropy)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_gives_scores_that_can_be_selected(name: str, model: nn.Module) -> None:
    names = prunable(model).names
    data = examples((3, 5, 5), 2)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    score_of = CRITERIA[name].scores
    scores = score_of(model, names, calibration=data)
    assert torch.equal(torch.get_rng_state(), state)
    assert tuple(scores) == names
    for key, score in scores.items():
        assert score.shape == model.get_parameter(key).shape
        assert score.dtype in DTYPES
        assert not score.requires_grad
    again = score_of(copy.deepcopy(model), names, seed=0, calibration=data)
    assert all(torch.equal(scores[key], again[key]) for key in names)
    assert select(scores, Budget(0.3)).kept == round(0.3 * (4 * 5 * 9 + 10))
    for score in scores.values():
        score.fill_(-1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    with pytest.raises(UsageError, match=r"no parameter 'missing\.weight'"):
        score_of(model, ["1.weight", "missing.weight"], calibration=data)


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(net, marks=[pytest.mark.long] if net in ("vgg16", "resnet18") else [])
        for net in NETS
    ],
)
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_every_net(name: str, net: str) -> None:
    torch.manual_seed(0)
    model = build(net)
    names = prunable(model).names
    Gates.attach(model, names)
    before = {key: hash_of(value) for key, value in model.state_dict().items()}
    scores = CRITERIA[name].scores(model, names, calibration=examples((3, 32, 32), 10))
    total = sum(model.get_parameter(key).numel() for key in names)
    assert sum(score.numel() for score in scores.values()) == total
    assert all(torch.isfinite(score).all() for score in scores.values())
    assert select(scores, Budget(0.1)).kept == round(0.1 * total)
    assert {key: hash_of(value) for key, value in model.state_dict().items()} == before
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "gate"])
def test_wrappers_are_looked_through(name: str, model: nn.Module) -> None:
    names, data = ["1.weight", "3.weight"], examples((3, 5, 5), 2)
    expected = CRITERIA[name].scores(model, names, calibration=data)
    compiled = torch.compile(model, backend="eager")
    for wrapped in (nn.DataParallel(model), AveragedModel(model), compiled):
        scores = CRITERIA[name].scores(wrapped, names, calibration=data)
        assert all(torch.equal(scores[key], expected[key]) for key in names)


def hash_of(value: torch.Tensor) -> int:
    return hash(value.detach().contiguous().numpy().tobytes())


NEEDY = [name for name, criterion in CRITERIA.items() if criterion.needs != "nothing"]
GRADIENT = [name for name, criterion in CRITERIA.items() if criterion.needs == "gradients"]


@pytest.mark.parametrize("name", NEEDY)
def test_a_criterion_that_needs_data_asks_for_it_by_name(name: str, model: nn.Module) -> None:
    names = prunable(model).names
    with pytest.raises(UsageError, match=f"'{name}' looks at data.*Calibration"):
        CRITERIA[name].scores(model, names)
    with pytest.raises(UsageError, match=r"does not take .*float32 \[N, 7, 5, 5\]"):
        CRITERIA[name].scores(model, names, calibration=examples((7, 5, 5), 2))


@pytest.mark.parametrize("name", GRADIENT)
def test_a_criterion_that_needs_gradients_refuses_by_name(name: str, model: nn.Module) -> None:
    names, data = prunable(model).names, examples((3, 5, 5), 2)
    unlabelled = Calibration(data.inputs)
    with pytest.raises(
        UsageError, match=f"'{name}' needs gradients.*data= and loss= of secateur.prune"
    ):
        CRITERIA[name].scores(model, names, calibration=unlabelled)
    model.get_parameter("3.weight").requires_grad_(False)
    with pytest.raises(UsageError, match=f"'{name}'.*'3.weight' has requires_grad=False"):
        CRITERIA[name].scores(model, names, calibration=data)
    model.get_parameter("3.weight").requires_grad_(True)
    aside = Aside(model)
    with pytest.raises(UsageError, match=f"'{name}'.*none reaches 'unused.weight'"):
        CRITERIA[name].scores(aside, ["inner.1.weight", "unused.weight"], calibration=data)
    with pytest.raises(UsageError, match=f"'{name}'.*outputs carry none"):
        CRITERIA[name].scores(Shut(model), ["inner.1.weight"], calibration=data)
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ScoreError, match=f"'{name}'.*'1.weight' that is not finite"):
        CRITERIA[name].scores(model, ["1.weight"], calibration=data)


class Shut(nn.Module):
    """Runs without gradients, as quantised modules do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Aside(nn.Module):
    """Has a layer that it does not run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Noisy(nn.Module):
    """Has what a criterion might disturb: dropout, running statistics, a gradient, a weight that
    changes when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.spectral = spectral_norm(nn.Linear(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(self.norm(self.conv(x)), 0.5)  # in evaluation mode too
        return self.spectral(self.linear(x.mean((2, 3))))


@pytest.mark.parametrize("name", NEEDY)
def test_looking_at_data_disturbs_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = Noisy()
    model.linear.eval()
    model.linear.weight.grad = torch.ones(2, 4)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    for inputs in (5, 4):  # the second is refused on the way
        data = examples((3, inputs, inputs), 2)
        if inputs == 4:
            model.conv.register_forward_hook(fail)
        try:
            CRITERIA[name].scores(model, ["conv.weight", "linear.weight"], calibration=data)
        except UsageError:
            assert inputs == 4
        assert torch.equal(torch.get_rng_state(), state)
        assert (model.training, model.linear.training) == (True, False)
        assert torch.equal(model.linear.weight.grad, torch.ones(2, 4))
        assert model.conv.weight.grad is None
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert len(model.conv._forward_hooks) == 1
    assert not model.linear._forward_hooks


def fail(*_: object) -> None:
    raise RuntimeError("on purpose")


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40))
def test_lamp_is_its_formula_and_keeps_the_magnitudes_order(values: list[int]) -> None:
    linear = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([values], dtype=torch.float32))
    score = CRITERIA["lamp"].scores(linear, ["weight"])["weight"][0].tolist()
    # rank: larger first, of equals the first in the tensor
    rank = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    for place, i in enumerate(rank):
        rest = sum(values[j] ** 2 for j in rank[: place + 1])
        assert score[i] == pytest.approx(values[i] ** 2 / rest if rest else 0)
    for keep in (0.3, 0.7):
        lamp = select(CRITERIA["lamp"].scores(linear, ["weight"]), Budget(keep))
        assert lamp == select(CRITERIA["magnitude"].scores(linear, ["weight"]), Budget(keep))


def test_taylor_is_the_mean_of_squared_products(model: nn.Module) -> None:
    data = examples((3, 5, 5), 2, 64)
    scores = CRITERIA["taylor"].scores(model, ["1.weight"], calibration=data)["1.weight"]
    expected = torch.zeros_like(scores)
    for x, y in zip(data.inputs[0].split(32), data.targets[0].split(32), strict=True):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        weight = model.get_parameter("1.weight")
        expected += (weight * weight.grad).detach().square() / 2  # type: ignore[operator]
    torch.testing.assert_close(scores, expected)


def test_obs_is_the_loss_of_a_quadratic_with_the_fishers_diagonal(model: nn.Module) -> None:
    data, name = examples((3, 5, 5), 2, 64), "1.weight"
    scores = CRITERIA["obs"].scores(model, [name], calibration=data)[name]
    weight = model.get_parameter(name)
    diagonal = torch.zeros(weight.shape, dtype=torch.float64)
    for x, y in zip(data.inputs[0].split(8), data.targets[0].split(8), strict=True):
        gradient = torch.autograd.grad(F.cross_entropy(model(x), y), weight)[0]
        diagonal += gradient.double().square() / 8
    expected = weight.detach().double().square() * (diagonal + 0.01 * diagonal.mean()) / 2
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0)


def test_obs_has_the_magnitudes_order_where_no_gradient_came() -> None:
    linear = nn.Linear(6, 2, bias=False)
    data = replace(examples((6,), 2), loss=lambda x, _: 0 * x.sum())
    scores = CRITERIA["obs"].scores(linear, ["weight"], calibration=data)
    for keep in (0.25, 0.5, 0.75):
        magnitude = CRITERIA["magnitude"].scores(linear, ["weight"])
        assert select(scores, Budget(keep)) == select(magnitude, Budget(keep))


def test_obs_keeps_its_order_however_small_the_gradients_are(model: nn.Module) -> None:
    data, name = examples((3, 5, 5), 2), "1.weight"
    scores = CRITERIA["obs"].scores(model, [name], calibration=data)[name]
    for factor in (1e-6, 1e-12):
        weak = replace(data, loss=lambda x, y, f=factor: f * F.cross_entropy(x, y))
        found = CRITERIA["obs"].scores(model, [name], calibration=weak)[name]
        torch.testing.assert_close(found / factor**2, scores, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, (3, 2), dilation=2, padding=2, padding_mode="reflect"),
        nn.Conv1d(4, 6, 5, padding="same"),
        nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1)),
        nn.Linear(4, 6),
    ],
    ids=str,
)
def test_wanda_is_the_weight_times_the_norm_of_its_input(layer: nn.Module) -> None:
    """Reference: the weight's gradient of a sum of squares, one input position at a time."""
    dimensions = {nn.Conv1d: (9,), nn.Conv2d: (7, 8), nn.Conv3d: (5, 6, 4), nn.Linear: ()}
    sizes = dimensions[type(layer)]
    x = torch.randn(32, 4, *sizes)
    score = CRITERIA["wanda"].scores(layer, ["weight"], calibration=Calibration((x,)))["weight"]
    # With inputs x², weights' gradients of the summed output are Σ x² over samples, positions.
    out = layer(x.square())
    gradient = torch.autograd.grad(out.sum(), layer.weight)[0]
    norm = (gradient / (32 * out[0, 0].numel())).sqrt()
    torch.testing.assert_close(score, layer.weight.detach().abs() * norm)  # type: ignore[operator]


def test_wanda_says_which_parameter_it_does_not_know() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose1d(4, 2, 3))
    model.forward = lambda x: model[1](model[0](x)[..., None])  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"'wanda'.*no such of '1.weight'.*exclude"):
        CRITERIA["wanda"].scores(model, ["0.weight", "1.weight"], calibration=examples((4,), 2))


def test_wanda_knows_what_attention_reads() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    names, x = prunable(model).names, torch.randn(32, 5, 8)
    scores = CRITERIA["wanda"].scores(model, names, calibration=Calibration((x,)))
    attention = model.self_attn
    norm = x.square().mean((0, 1)).sqrt()
    torch.testing.assert_close(
        scores["self_attn.in_proj_weight"], attention.in_proj_weight.detach().abs() * norm
    )
    plain = copy.deepcopy(attention)
    with torch.no_grad():  # what the output projection reads
        plain.out_proj.weight.copy_(torch.eye(8))
        plain.out_proj.bias.zero_()
        read = plain(x, x, x)[0].square().mean((0, 1)).sqrt()
    torch.testing.assert_close(
        scores["self_attn.out_proj.weight"], attention.out_proj.weight.detach().abs() * read
    )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_wanda_knows_what_recurrent_layers_read(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model, x = kind(4, 6, num_layers=2, batch_first=True), torch.randn(32, 5, 4)
    names = [name for name, _ in model.named_parameters() if "weight" in name]
    scores = CRITERIA["wanda"].scores(model, names, calibration=Calibration((x,)))
    first = kind(4, 6, batch_first=True)
    first.load_state_dict({n: model.state_dict()[n] for n in first.state_dict()})
    with torch.no_grad():
        given = {"weight_ih_l0": x, "weight_ih_l1": first(x)[0]}
        for name, given_to in (("weight_hh_l0", first(x)[0]), ("weight_hh_l1", model(x)[0])):
            given[name] = F.pad(given_to[:, :-1], (0, 0, 1, 0))  # states, from zero on
    for name, read in given.items():
        norm = read.square().mean((0, 1)).sqrt()
        weight = model.get_parameter(name).detach()
        torch.testing.assert_close(scores[name], weight.abs() * norm)


def test_wanda_knows_what_experts_of_one_tensor_read() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    config = MixtralConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_local_experts=3, **sizes
    )
    texts, found = Calibration(({"input_ids": torch.randint(20, (32, 6))},)), []
    for way in ("eager", "grouped_mm"):
        config._experts_implementation = way
        torch.manual_seed(1)
        model = MixtralForCausalLM(config).eval()
        names = [name for name in prunable(model).names if "experts" in name]
        assert len(names) == 2
        found.append(CRITERIA["wanda"].scores(model, names, calibration=texts))
    for name in names:
        torch.testing.assert_close(found[0][name], found[1][name])
        assert bool((found[0][name] > 0).all())


def test_wanda_counts_every_use_of_a_weight() -> None:
    torch.manual_seed(0)
    one = nn.Linear(4, 4)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = one, nn.Linear(4, 4)
            self.second.weight = one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(input=self.first(x)))

    x = torch.randn(32, 4)
    scores = CRITERIA["wanda"].scores(Twice(), ["first.weight"], calibration=Calibration((x,)))
    with torch.no_grad():
        read = torch.cat([x, one(x), one(one(x))])
    expected = one.weight.detach().abs() * read.square().mean(0).sqrt()
    torch.testing.assert_close(scores["first.weight"], expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_magnitude_is_the_absolute_value(model: nn.Module, dtype: torch.dtype) -> None:
    model.to(dtype)
    scores = CRITERIA["magnitude"].scores(model, ["3.weight"])
    assert torch.equal(scores["3.weight"], model[3].weight.detach().abs())  # type: ignore[index]


def test_gate_reads_the_learned_gates(model: nn.Module) -> None:
    gates = Gates.attach(model, ["0.weight"])
    learned = torch.rand(4, 3, 3, 3) - 0.5
    gates.values()["0.weight"].copy_(learned)
    scores = CRITERIA["gate"].scores(nn.DataParallel(model), ["0.weight"])
    assert torch.equal(scores["0.weight"], model.get_parameter("0.weight").detach().abs() + learned)
    assert torch.equal(scores["0.weight"], gates.scores()["0.weight"])


def test_gate_without_gates_says_what_to_do(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"1 of 2 .*'0\.weight'.*attach.*learn"):
        CRITERIA["gate"].scores(model, ["0.weight", "1.weight"])


def test_random_depends_on_seed_name_and_shape_alone(model: nn.Module) -> None:
    draw = CRITERIA["random"].scores
    names = ["0.weight", "1.weight"]
    first = draw(model, names, seed=1)
    torch.rand(7)
    reordered = draw(model, names[::-1], seed=1)
    alone = draw(model, names[:1], seed=1)
    assert all(torch.equal(first[name], reordered[name]) for name in names)
    assert torch.equal(first["0.weight"], alone["0.weight"])
    assert not torch.equal(first["0.weight"], draw(model, names, seed=2)["0.weight"])
    twins = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    scores = draw(twins, ["a.weight", "b.weight"])
    assert not torch.equal(scores["a.weight"], scores["b.weight"])
    assert (scores["a.weight"] >= 0).all()
    assert (scores["a.weight"] < 1).all()


def test_random_numbers_are_the_same_on_every_machine() -> None:
    scores = CRITERIA["random"].scores(nn.Linear(2, 2, bias=False), ["weight"], seed=7)
    expected = torch.tensor([[0.6279415, 0.402097], [0.6964782, 0.2526941]])
    torch.testing.assert_close(scores["weight"], expected, rtol=0, atol=1e-7)
