"""Other people's tasks in a study: their outputs, metrics and margins, and the examples."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import Study, Task
from secateur.errors import UsageError
from secateur.study.command import command_of
from secateur.study.loading import load_task
from secateur.study.metrics import ACCURACY, CROSS_ENTROPY, MEAN_SQUARED_ERROR
from secateur.study.options import Options
from secateur.study.results import rebuild
from secateur.study.spec import Spec
from secateur.study.task import classification

pytestmark = pytest.mark.usefixtures("undrawn")

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK: dict[str, Any] = {"seeds": 3, "epochs": 1, "gate_epochs": 1, "calibration": 256}
QUICK["device"] = "cpu"


@dataclass(frozen=True)
class Given:
    """What a model of some library gives."""

    logits: Tensor
    loss: None = None


class Odd(nn.Module):
    """A small classifier whose output has a form of its own."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first = nn.Linear(64, 16)
        self.second = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        hidden = self.second(self.first(x.flatten(1)).relu()).relu()
        logits = self.head(hidden)
        return {
            "tuple": (logits, hidden),
            "dict": {"logits": logits, "hidden": hidden},
            "dataclass": Given(logits),
        }[self.form]


TAKE = {
    "tuple": lambda given: given[0],
    "dict": lambda given: given["logits"],
    "dataclass": lambda given: given.logits,
}


@pytest.mark.parametrize("form", ["tuple", "dict", "dataclass"])
def test_outputs_of_any_form_go_through_a_whole_study(
    digits: Task, tmp_path: Path, form: str
) -> None:
    task = replace(digits, model=lambda: Odd(form), output=TAKE[form], description={})
    plan = {**QUICK, "seeds": 1, "keep": (0.5,), "criteria": ("gate", "taylor", "wanda")}
    plan |= {"reconstruct": 128, "teach": 0.5, "unrepaired": True, "criterion_images": 64}
    job = Study(task, out=tmp_path, **plan)
    results = job.run()
    assert not results.summary.missing
    network = job.network(0.5, criterion="taylor", recovery="none")
    given = network(torch.zeros(2, 1, 8, 8))  # as the user's own module gives it
    assert type(given).__name__ in (form, "Given")
    assert TAKE[form](given).shape == (2, 10)
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_model_from_string(job.onnx(0.5)).graph
    assert [output.name for output in graph.output] == ["output"]  # what the metric is taken of


@pytest.mark.parametrize(
    ("form", "hint"),
    [("tuple", r"given\[0\]"), ("dict", r"given\['logits'\]"), ("dataclass", r"given\.logits")],
)
def test_an_output_that_is_no_tensor_says_how_to_take_one(
    digits: Task, tmp_path: Path, form: str, hint: str
) -> None:
    task = replace(digits, model=lambda: Odd(form))
    kind = "Given" if form == "dataclass" else form
    with pytest.raises(UsageError, match=rf"gives a {kind}, but .*output=lambda given: {hint}"):
        Study(task, out=tmp_path / "study", **QUICK).run()
    assert not (tmp_path / "study").exists()


def bad_data(data: Any, **methods: Any) -> Any:
    class Bad:
        def __getattr__(self, name: str) -> Any:
            return getattr(data, name)

    for name, method in methods.items():
        setattr(Bad, name, method)
    return Bad()


def batches(*found: Any) -> Any:
    return lambda *arguments, **options: iter(found)


NOTHING = torch.zeros(4, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "methods", "message"),
    [
        ({"model": lambda: 3}, {}, "model of task 'digits/mlp' gives a int, not a torch module"),
        ({"output": lambda given: 3}, {}, r"output function .* returns a int.*given a Tensor"),
        ({"loss": lambda outputs, targets: outputs}, {}, r"loss .* gives float32 \[128, 10\], not"),
        ({"loss": lambda o, t: nn.functional.cross_entropy(o, t[:5])}, {}, r"loss of .* does not "
         r"take outputs float32 \[128, 10\], int64 \[128\]: "),
        ({"metric": replace(ACCURACY, function=lambda o, t: (o[:, 0] == t).float().mean())}, {},
         r"one value per example, .* gives \[\]"),
        ({"metric": replace(MEAN_SQUARED_ERROR, margin=0.1)}, {}, r"\[\d+, 10\] and targets"),
        ({}, {"evaluation": batches()}, "nothing in its validation split"),
        ({}, {"epoch": batches(NOTHING)}, r"gives float32 \[4, 1, 8, 8\] in an epoch; a batch is"),
        ({}, {"epoch": batches(({"x": NOTHING}, NOTHING))}, r"gives a tuple of \(a dict, float32"),
        ({}, {"epoch": batches((NOTHING[..., :5], torch.zeros(4)))}, r"model .* does not take "
         r"inputs float32 \[4, 1, 8, 5\]"),
        ({}, {"batches_per_epoch": lambda self, size: 0}, "has no batch of 128; give a smaller"),
        ({}, {"calibration": None}, "has no calibration; a study asks for batches_per_epoch"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said_before_anything_is_written(
    digits: Task, tmp_path: Path, changes: Any, methods: Any, message: str
) -> None:
    data = bad_data(digits.data(torch.device("cpu")), **methods)
    task = replace(digits, data=lambda device: data, **changes)
    with pytest.raises(UsageError, match=message):
        Study(task, out=tmp_path / "study", margin=0.5, **QUICK).run()
    assert not (tmp_path / "study").exists()


def test_the_data_is_made_once(digits: Task, tmp_path: Path) -> None:
    made = []

    def data(device: torch.device) -> Any:
        made.append(device)
        return digits.data(device)

    task = replace(digits, data=data)
    plan = {**QUICK, "keep": (0.5,), "criteria": ("magnitude",)}
    Study(task, out=tmp_path, **plan).run()
    assert len(made) == 1
    Study(task, out=tmp_path, **plan).run()  # complete: nothing is asked
    assert len(made) == 1


def test_a_margin_must_be_declared_where_the_unit_has_none(digits: Task) -> None:
    task = replace(digits, metric=CROSS_ENTROPY)
    with pytest.raises(UsageError, match=r"no margin is declared for cross-entropy loss.*in nats "):
        Spec.of(task, Options())
    assert Spec.of(task, Options(margin=0.1)).as_json()["margin"] == 0.1
    own = replace(task, metric=replace(CROSS_ENTROPY, margin=0.02))
    assert Spec.of(own, Options()).as_json()["margin"] == 0.02
    assert Spec.of(own, Options(margin=0.1)).as_json()["margin"] == 0.1
    assert Spec.of(digits, Options()) == Spec.of(digits, Options(margin=0.5))
    assert Spec.of(digits, Options()).as_json()["margin"] == 0.5


def test_the_command_of_a_study_gives_it_again(digits: Task) -> None:
    def shown(task: Task, **options: Any) -> str:
        return command_of(Spec.of(task, Options(**options)).as_json())

    assert shown(digits) == "secateur study --data digits --net mlp"
    smooth = classification("digits", "mlp", label_smoothing=0.0, progress=False)
    assert shown(smooth, margin=0.7).endswith("mlp --label-smoothing 0.0 --margin 0.7")
    # a user's task that speaks of nets and data in its description is not a built-in one
    mine = replace(digits, name="mine", description={"net": "mlp", "data": "digits"})
    assert shown(mine, seeds=5) == "secateur.Study(task, seeds=5, margin=0.5).run()  # task: mine"
    loaded = replace(mine, description={"source": "mytask.py:task"})
    assert shown(loaded, margin=0.2) == "secateur study mytask.py:task --margin 0.2"


@pytest.fixture
def _forgotten() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("secateur_task_")]:
        del sys.modules[name]


def text_of(page: Path) -> str:
    """The words of a report before its scripts."""
    found = page.read_text(encoding="utf-8").split('<script type="application/json"')[0]
    found = re.sub(r"<style>.*?</style>|<[^>]*>", " ", found, flags=re.S)
    return " ".join(html.unescape(found).replace("\u00a0", " ").split())


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    ("example", "unit", "higher"),
    [
        ("own_task", "points", True),
        ("regression_task", "", False),
        ("language_task", "nats", False),
    ],
)
def test_reports_of_the_examples_know_which_way_is_better(
    tmp_path: Path, example: str, unit: str, higher: bool
) -> None:
    task = load_task(f"{EXAMPLES / example}.py:task")
    plan = {**QUICK, "seeds": 2, "criteria": ("gate", "magnitude"), "keep": (1.0, 0.001)}
    job = Study(task, out=tmp_path, floor=0.0, margin=1e-3, **plan)
    results = job.run()
    assert results.summary.higher_is_better == higher
    for row in results.summary.rows:
        if row.keep < 1:
            assert row.difference is not None
            assert (row.difference.mean < 0) == higher  # hardly a weight is left
    page = text_of(rebuild(tmp_path).files.html)
    sign, side, better = ("−", "below", "above") if higher else ("+", "above", "below")
    name = "Higher" if higher else "Lower"
    assert f"{name} is better. Filled marks are certified levels" in page
    assert re.search(rf"the grey band is the margin, 0.001 ?{unit}[a-z ]* {side} their mean", page)
    assert f"{better} zero the former is better" in page
    assert re.search(rf"\((?:[a-z ]+, )?{re.escape(sign)} is worse\)", page)
    label = json.loads(
        re.findall(r'<script type="application/json" id="data">(.*?)</script>',
                   results.files.html.read_text(encoding="utf-8"), re.S)[0]
    )["charts"][0]["y"][0]  # fmt: skip
    assert label.startswith(f"test {task.metric.name}")
    assert ("lower is better" in label) == (not higher)
    assert "no better than chance" not in page or higher


def test_networks_of_three_dimensions_can_be_studied(tmp_path: Path) -> None:
    """Conv3d weights have no channels-last form of two dimensions."""

    class Cubes:
        def batches_per_epoch(self, batch_size: int) -> int:
            return 2

        def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[Any]:
            for _ in range(2):
                x = torch.randn((8, 1, 4, 4, 4), generator=generator)
                yield x, x.mean((1, 2, 3, 4))

        def calibration(
            self, count: int, batch_size: int, generator: torch.Generator
        ) -> Iterator[Tensor]:
            yield torch.randn((8, 1, 4, 4, 4), generator=generator)

        def evaluation(self, split: str, batch_size: int = 8) -> Iterator[Any]:
            yield from self.epoch(8, torch.Generator().manual_seed(len(split)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv3d(1, 4, 3), nn.Conv3d(4, 4, 2)
            self.head = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x).relu()).flatten(1))[:, 0]

    task = Task("cubes", Net, lambda device: Cubes(), nn.functional.mse_loss, MEAN_SQUARED_ERROR)
    plan = {**QUICK, "seeds": 1, "keep": (0.5,), "rate": 0.01, "margin": 0.1}
    assert not Study(task, out=tmp_path, **plan).run().summary.missing
