"""What is cut, by what rule, and what the model amounts to before: values that all cuts share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.measure.work import Work, work
from secateur.model.inputs import Inputs
from secateur.model.parameters import device_of, parameters
from secateur.onecall.pruned import file_bytes, nonzero
from secateur.pruning.adapters import ADAPTER, thawed
from secateur.pruning.calibration import Calibration, Data, Loss, first_sample
from secateur.pruning.criteria import Criterion, find
from secateur.pruning.gates.gates import gated
from secateur.pruning.parameters import PARAMETRIZED, Prunable, prunable
from secateur.pruning.recovery.batchnorm import with_statistics
from secateur.pruning.running import unused
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.overrides import refuse_conflicts

IDLE = "not run on the data"
ADAPTERS = (
    "the base is cut, which PEFT keeps frozen, and adapters stay whole; merging fills the zeros, "
    "so merge with secateur.merge_adapters(model, result.masks)"
)

Recover = Literal["auto", "none", "batchnorm", "reconstruct"]


@dataclass(frozen=True)
class Job:
    """A model and how it is to be cut."""

    model: nn.Module
    plan: Prunable
    budget: Budget
    criterion: Criterion
    seed: int
    data: Calibration | None
    example: Inputs | None
    recover: Recover
    size: int
    """Parameters of the uncut model."""
    bytes: int
    """Of its file."""
    work: Work | None
    """Multiply-adds of one pass of it over the example, where there is one."""
    nonzero: int
    """Of its weights that may be cut, how many are not zero already."""
    notes: tuple[str, ...]
    """What to say of the model."""

    @cached_property
    def scores(self) -> Mapping[str, Tensor]:
        """The criterion's scores of everything that may be cut."""
        return self.scores_of(self.plan.names)

    def scores_of(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the criterion's scores of some of it."""
        with thawed(self.model, names if self.criterion.needs == "gradients" else ()):
            return self.criterion.scores(self.model, names, seed=self.seed, calibration=self.data)


def job_of(
    model: nn.Module,
    budget: Budget,
    *,
    plan: Prunable | None,
    criterion: str | None,
    data: Data | None,
    loss: Loss | None,
    example: Inputs | None,
    recover: Recover,
    seed: int,
) -> Job:
    """Return the job of a call of `prune`; arguments are its own.

    Raises:
        UsageError: the plan is of another model, there is no such criterion, data are needed and
            missing, or the model does not take data or example.
        BudgetError: overrides do not agree about a shared parameter.
    """
    pattern, device = budget.pattern, device_of(model)
    if example is None:
        example = first_sample(data, device)
    if plan is None:
        plan = prunable(model, pattern=pattern, example=example if pattern.directed else None)
    parameters(model, plan.names)  # or the plan is of another model
    if pattern.smaller:
        plan = plan.including_first(model)
    refuse_conflicts(model, plan.names, budget)
    rule = find(criterion or ("gate" if gated(model) else "magnitude"))
    asked = recover in ("batchnorm", "reconstruct")
    repaired = asked or (recover == "auto" and bool(with_statistics(model)))
    seen = None  # where there is nothing that data would be looked at for
    if data is not None and (repaired or rule.needs != "nothing"):
        seen = Calibration.of(data, loss, device=device)
        seen.check(model)
        example = seen.example if example is None else example
    idle: tuple[str, ...] = ()
    if seen is not None:
        with seen.precision():
            idle = unused(model, plan.names, seen.inputs)
    needy = rule.needs != "nothing"
    if idle and needy:
        plan = plan.without(idle, IDLE)
    if recover == "reconstruct" and not needy:
        idle = ()  # said there
    if asked and seen is None:
        raise UsageError(f"recover={recover!r} looks at data; give it data=, unlabelled inputs")
    return Job(
        *(model, plan, budget, rule, seed, seen, example, recover),
        size=sum(parameter.numel() for parameter in model.parameters()),
        bytes=file_bytes(model),
        work=None if example is None else work(model, example),
        nonzero=nonzero(model, plan.names),
        notes=_notes(model, plan, idle, needy),
    )


def _notes(model: nn.Module, plan: Prunable, idle: Sequence[str], needy: bool) -> tuple[str, ...]:
    """Say what to know of a model: adapters, parametrizations, layers that did not run."""
    notes = [ADAPTERS] if ADAPTER in plan.excluded.values() else []
    computed = [name for name, why in plan.excluded.items() if why == PARAMETRIZED]
    if computed:
        path, _, weight = computed[0].partition(".parametrizations.")
        others = {name.partition(".parametrizations.")[0] for name in computed} - {path}
        layer, name = f"model.get_submodule({path!r})", weight.split(".")[0]
        notes.append(
            f"{path}{_more(others)} stays whole, since a parametrization computes its {name} in "
            f"every pass; torch.nn.utils.parametrize.remove_parametrizations({layer}, {name!r}) "
            "lets it be cut"
        )
    if idle:
        notes.append(
            f"{idle[0]}{_more(idle[1:])} did not run on the data, as heads do not that only "
            f"training uses: {'left whole' if needy else 'cut all the same'}"
        )
    return tuple(notes)


def _more(others: Collection[str]) -> str:
    return f" and {len(others)} more" if others else ""
