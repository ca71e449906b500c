"""What a cut came to: asked for and reached, layer by layer, and what was left out and why."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.onecall.goal import Goal
from secateur.onecall.job import Job
from secateur.onecall.pruned import Pruned, nonzero
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks


@dataclass(frozen=True, slots=True)
class Layer:
    """One parameter that was cut."""

    name: str
    shape: tuple[int, ...]
    """Before the cut."""
    kept: int
    total: int
    macs: int | None
    """Multiply-adds of one pass before the cut; None where no example was there to count them."""

    @property
    def keep(self) -> float:
        """The keep ratio reached here."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class Amount:
    """One figure before and after the cut."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """What is left, as a fraction of what there was."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One keep ratio that was tried on the way to a solved budget."""

    keep: float
    value: float
    """What was measured there: the metric, or the cost that was to be met."""
    fine: bool


@dataclass(frozen=True)
class Result:
    """What `secateur.prune` did. Printed, it is a table; in a notebook, one of HTML."""

    criterion: str
    budget: Budget
    """What was asked for; where it was solved for, what the solution is."""
    masks: Masks
    """Of the pruned model: to hold in further training, and to save with it. Where whole channels
    were cut it has become smaller, and these keep all of it; `layers` say what was cut."""
    layers: tuple[Layer, ...]
    excluded: Mapping[str, str]
    """Parameters that could not be cut: name → reason."""
    weights: Amount
    """Prunable weights: kept of all. With pattern "channel" the fraction differs from the keep
    ratio, which then counts channels."""
    nonzero: Amount
    """Those weights that are not zero, before and after. Fewer before than there are: the model
    had zeros already. Fewer after than are kept: some of them are among what is kept."""
    parameters: Amount
    """All parameters: those left at zero by the masks do not count."""
    macs: Amount | None
    """Multiply-adds of one sample, zeros skipped; None without an example."""
    bytes: Amount
    """Of the file that `secateur.save` writes, with these masks and this budget."""
    recovery: tuple[str, ...]
    """What was done afterwards: "batchnorm", "reconstruct", or nothing."""
    goal: tuple[str, float] | None = None
    """What the keep ratio was solved for: name and limit."""
    attempts: tuple[Attempt, ...] = ()
    """Where the budget was solved for: what was tried, in order."""
    notes: tuple[str, ...] = ()
    """What to look at: layers that keep nothing, groups of channels left whole."""

    @property
    def requested(self) -> float:
        """The keep ratio that was asked for, or solved for."""
        return self.budget.keep

    @property
    def achieved(self) -> float:
        """The fraction of the prunable weights that is kept."""
        return self.weights.ratio

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [self._title(), *(f"  {line}" for line in self._summary())]
        lines += [
            "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        return "\n".join([*lines, *(f"  {remark}" for remark in self._remarks())])

    def _repr_html_(self) -> str:
        head, *body = self._rows()
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        rows = [
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in body
        ]
        return "".join(
            [
                f"<p><b>{html.escape(self._title())}</b></p>",
                "<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in self._summary()) + "</ul>",
                f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
                *(f"<p>{html.escape(remark)}</p>" for remark in self._remarks()),
            ]
        )

    def _title(self) -> str:
        pattern = "" if self.budget.pattern == "weight" else f", pattern {self.budget.pattern}"
        recovery = f", then {' and '.join(self.recovery)}" if self.recovery else ""
        return f"pruned by {self.criterion}{pattern}{recovery}"

    def _summary(self) -> list[str]:
        lines = [f"requested: keep {self.requested:.4g}"]
        if self.goal:
            reached = {attempt.keep: attempt.value for attempt in self.attempts}[self.requested]
            tried = f"{len(self.attempts)} attempt{'s' if len(self.attempts) > 1 else ''}"
            name, limit = self.goal
            lines = [
                f"requested: {name}={limit:g}, met by {reached:.6g} at keep {self.requested:.4g} "
                f"in {tried}"
            ]
        figures = {
            "weights": self.weights,
            "parameters": self.parameters,
            "multiply-adds": self.macs,
            "bytes": self.bytes,
        }
        if zeros := self.weights.before - self.nonzero.before:
            lines.append(
                f"zeros before: {zeros:,} of {self.weights.before:,} weights; "
                f"{self.nonzero.after:,} are not zero now"
            )
        return lines + [
            f"{name}: {amount.after:,} of {amount.before:,} ({amount.ratio:.4g})"
            for name, amount in figures.items()
            if amount
        ]

    def _remarks(self) -> list[str]:
        whole = [f"left whole: {_listed(self.excluded)}"] if self.excluded else []
        return whole + [f"note: {note}" for note in self.notes]

    def _rows(self) -> list[list[str]]:
        head = ["layer", "shape", "kept", "of", "keep", "multiply-adds before"]
        rows = [
            [
                la.name,
                "×".join(map(str, la.shape)),
                f"{la.kept:,}",
                f"{la.total:,}",
                f"{la.keep:.3f}",
                "" if la.macs is None else f"{la.macs:,}",
            ]
            for la in self.layers
        ]
        return [row if self.macs else row[:-1] for row in (head, *rows)]


def result_of(job: Job, pruned: Pruned, goal: Goal | None, attempts: tuple[Attempt, ...]) -> Result:
    """Return the account of a job that is done."""
    cut, layers = pruned.cut, pruned.cut.layers
    left = nonzero(pruned.model, tuple(pruned.masks))
    sparse = _sparse_already(job, pruned, left)
    counts = job.work.parameters if job.work else {}
    return Result(
        criterion=job.criterion.name,
        budget=pruned.budget,
        masks=pruned.masks,
        layers=tuple(
            Layer(name, tuple(cut[name].shape), *layers[name], counts.get(name))
            for name in job.plan.names
        ),
        excluded=dict(job.plan.excluded),
        weights=Amount(cut.total, cut.kept),
        nonzero=Amount(job.nonzero, left),
        parameters=Amount(job.size, pruned.parameters),
        macs=Amount(job.work.total, pruned.macs) if job.work and pruned.macs is not None else None,
        bytes=Amount(job.bytes, pruned.bytes),
        recovery=pruned.recovery,
        goal=(goal.name, goal.limit) if goal else None,
        attempts=attempts,
        notes=job.notes + sparse + pruned.notes,
    )


def _sparse_already(job: Job, pruned: Pruned, left: int) -> tuple[str, ...]:
    """Say what a keep ratio means where a model had zeros that are among what is kept."""
    idle, total = pruned.masks.kept - left, pruned.cut.total
    if not idle or job.nonzero == total:
        return ()
    again = pruned.budget.keep * job.nonzero / total
    return (
        f"{idle:,} of the weights that are kept are zero, as they were before; keep={again:.4g} "
        f"would leave {pruned.budget.keep:.4g} of the {job.nonzero:,} that were not",
    )


def _listed(excluded: Mapping[str, str]) -> str:
    """Return the reasons, each with how many parameters it holds for and which is the first."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in excluded.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(
        f"{reason}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for reason, names in by_reason.items()
    )
