"""A study from Python: one call that runs, resumes and reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import machine
from secateur.arguments import FUNCTION, PATH, Wanted, a, checked, is_real, unknown
from secateur.errors import StudyError, UsageError, whole
from secateur.export import to_onnx
from secateur.model.inputs import head
from secateur.study import matched, matching, report, shipping
from secateur.study.announcing import announced
from secateur.study.artifacts import quantised
from secateur.study.executors import local
from secateur.study.executors.turn import Execute
from secateur.study.growing import earlier, grow, refuse_other
from secateur.study.matched import Matched
from secateur.study.options import LADDER, Options
from secateur.study.outputs import as_given
from secateur.study.plan import (
    AS_FAST,
    START,
    Observer,
    Trial,
    claimed,
    reference,
    seed_for,
)
from secateur.study.preflight import try_out
from secateur.study.reading import read_matched, read_records, read_shipped, read_spec
from secateur.study.results import Results, rebuild
from secateur.study.shipping import ship
from secateur.study.spec import Spec
from secateur.study.store import Store
from secateur.study.subject import Subject
from secateur.study.summary import summarise
from secateur.study.task import Task, classification
from secateur.study.withdrawn import without_withdrawn

_WORKERS = Wanted(
    lambda v: v is None or (whole(v) and v >= 1), "at least 1, a whole number, or None"
)
_PRICE = Wanted(
    lambda v: v is None or (is_real(v) and 0 < v < float("inf")), "a positive number, or None"
)
_KEEP = Wanted(lambda v: not isinstance(v, bool) and 0 < v <= 1, "a keep ratio in (0, 1]")


class Study:
    """A task and the plan to prune it.

    Args:
        task: what is trained; by default the default net on CIFAR-10.
        out: the study directory; by default `studies/<task>-<hash>` in the current folder, so
            that the same study is always found again, and another one never mixed with it.
        device: auto, cpu, cuda or cuda:N.
        grow: directory of the same study with fewer seeds: those that are complete are taken
            over, and the report says so. By default one beside it, where `out` is not given.
        options: the plan; by default `Options()`.
        changes: fields of `secateur.study.spec.Options` to change in it, for example `seeds=5`.

    Raises:
        UsageError: an option is unknown or out of its range.
    """

    @checked(
        task=a(
            Task,
            "a secateur.Task, which says how a network is built, trained and measured; for one "
            "that you have trained already there is secateur.prune",
        ),
        options=a(Options, "Options; single ones go by their names, such as seeds=5"),
        out=PATH,
        grow=PATH,
        device=Wanted(
            lambda v: isinstance(v, str),
            "auto, cpu, cuda or cuda:N",
            lambda v: str(v) if isinstance(v, torch.device) else v,
        ),
    )
    def __init__(
        self,
        task: Task | None = None,
        options: Options | None = None,
        *,
        out: Path | str | None = None,
        device: str | torch.device = "auto",
        grow: Path | str | None = None,
        **changes: Any,
    ) -> None:
        known, changes = [each.name for each in fields(Options)], without_withdrawn(changes)
        for name, value in changes.items():
            if name not in known:
                raise unknown("a study", name, known, value)
        options = replace(options or Options(), **changes)
        self.task = task or classification()
        self.spec = Spec.of(self.task, options)
        slug = "".join(c if c.isalnum() else "-" for c in self.task.name)
        default = Path("studies") / f"{slug}-{self.spec.hash[:12]}"
        self.directory = Path(out) if out is not None else default
        self.grows_from = Path(grow) if grow is not None else None
        if grow is None and out is None:
            self.grows_from = earlier(self.spec, default)
        self.device = machine.device(str(device))

    @checked(asked=_WORKERS)
    def workers(self, asked: int | None = None) -> tuple[int, str]:
        """Return how many processes `run` would use, and why fewer than asked for, if so."""
        return local.workers_for(self.task, self.spec, self.device, asked)

    def announcement(self, workers: int, by: str = "", *, measured: bool = False) -> list[str]:
        """Return what a study does and what it can show, before it starts.

        Args:
            workers: how many do it side by side.
            by: what they are; by default processes of this machine.
            measured: `match` and `ship` come afterwards.

        Raises:
            UsageError: as `run`.
        """
        subject = Subject(self.task, self.spec, self.device)
        lines = announced(subject, self.directory, workers, by, measured=measured)
        if self.grows_from is not None:
            lines.insert(2, f"seeds that are complete in {self.grows_from} are taken over")
        return lines

    @checked(observe=FUNCTION, workers=_WORKERS, executor=FUNCTION)
    def run(
        self,
        observe: Observer = lambda event: None,
        *,
        workers: int | None = None,
        executor: Execute | None = None,
    ) -> Results:
        """Do what is not done yet, then write the report.

        May be killed at any moment and called again: it ends in the same numbers.

        Args:
            observe: told of every item as it begins and ends.
            workers: processes that do it side by side, each with one thread; by default as many
                as there are physical cores. The numbers do not depend on it.
            executor: what does it in place of those; `secateur.study.executors.ray.on_ray`
                gives that of a Ray cluster.

        Raises:
            UsageError: the model cannot be built or has nothing to cut, the floors make a keep
                ratio impossible, or model, data, loss and metric do not go together; nothing is
                written then.
            StudyError: the directory belongs to another study, or it cannot grow from the one that
                it was given; it is in use; or some items failed,
                be it by an exception of the task's own code: a line for each, which `failures/`
                keeps with its traceback. The rest of the study and its report are there all the
                same, and the next run tries those items again.
            DataError, FileError: see their messages.
        """
        report.refuse_loss(self.directory)
        if self.grows_from is not None:
            refuse_other(self.spec, self.grows_from)
        subject = Subject(self.task, self.spec, self.device)
        if not any((self.directory / "records").glob("*.json")):
            try_out(subject)
        number, _ = self.workers(workers)
        execute = executor or partial(local.execute, workers=number)
        with Store(self.directory, self.spec) as store:
            if self.grows_from is not None:
                grow(store, self.spec, self.grows_from)
            store.restore_matched(self.spec.seeds, self.spec.options.smaller or 0.0)
            failures = execute(subject, store, observe)
            listed = "".join(f"\n- {text}" for text in failures)
            if failures and not any((self.directory / "records").glob("*_keep-*.json")):
                raise StudyError(f"nothing of the study could be done:{listed}")
            results = rebuild(self.directory)
        if failures:
            raise StudyError(
                f"some of the study could not be done; the rest is in {results.files.html}:{listed}"
            )
        return results

    @property
    def unmatched(self) -> bool:
        """Whether it is still to be found what dense network is as fast as the cut one."""
        known = read_matched(self.directory, self.spec.hash)
        return bool(self.spec.options.smaller) and (known is None or known.width is None)

    @checked(progress=FUNCTION)
    def match(self, *, progress: Callable[[str], None] = lambda text: None) -> Matched | None:
        """Find the dense network that is as fast as the cut one at the level `smaller`, here.

        Networks of some widths are compiled and timed in turn with the first seed's cut network.
        The width is kept, and `run` then trains such a network with each seed. Once it is known
        it stays, so that a study that goes on ends in the same numbers; where none could be
        found, it is tried again.

        Args:
            progress: told what is going on.

        Returns:
            What was found, and why not, if so; None where the study compares with no smaller
            network.

        Raises:
            StudyError: the study was not run, or is in use.
        """
        options, keep = self.spec.options, self.spec.options.smaller
        if not keep:
            return None
        read_spec(self.directory)
        cut = claimed(options, self.spec.seeds[0], keep)
        with Store(self.directory, self.spec) as store:
            if (known := store.matched()) is not None and known.width is not None:
                return known
            subject = Subject(self.task, self.spec, self.device)
            found = matching.match(
                cut,
                lambda: local.network(subject, store, cut).cpu(),
                lambda width: subject.narrow(width).cpu(),
                self.task.data(torch.device("cpu")),
                int8=seed_for(cut, "int8") if options.int8 else None,
                progress=progress,
            )
            store.write_matched(matched.as_json(found))
        return found

    @checked(price=_PRICE, progress=FUNCTION)
    def ship(
        self,
        *,
        price: float | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ) -> Results:
        """Compile each level's network, measure it here beside other engines, and report that.

        The networks are those of the primary curve and of the first seed; engines that are not
        installed are named in the report. What was measured before is replaced.

        Args:
            price: of an hour of this machine, in US dollars; gives the cost of a million examples.
            progress: told what is going on.

        Raises:
            StudyError: the study was not run, is in use, or the network of a level's stage failed.
            FileError: the report cannot be written.
        """
        options = self.spec.options
        criterion, recovery = options.claim
        seed, spec = self.spec.seeds[0], read_spec(self.directory)
        trials, _ = read_records(self.directory, self.spec.hash)
        summary = summarise(spec, trials)
        uncut = Trial(seed, START, 1.0, "batchnorm")
        wanted = {
            keep: Trial(seed, criterion, keep, recovery) for keep in options.cuts(*options.claim)
        }
        wanted[1.0] = reference(options, min(wanted.values(), key=lambda t: t.keep)) or uncut
        with Store(self.directory, self.spec) as store:
            subject = Subject(self.task, self.spec, self.device)

            def made(trial: Trial) -> Callable[[], nn.Module]:
                return lambda: local.network(subject, store, trial).cpu()

            networks = {keep: made(trial) for keep, trial in wanted.items()}
            shipment = ship(
                networks,
                self.task,
                summary,
                as_fast=self._as_fast(subject, store),
                int8=seed_for(wanted[min(wanted)], "int8") if options.int8 else None,
                price=price,
                progress=progress,
            )
            store.write_shipped(shipping.as_json(shipment))
            return rebuild(self.directory)

    def _as_fast(self, subject: Subject, store: Store) -> Callable[[], nn.Module] | None:
        """Return what makes the dense network as fast of the first seed; None where none is."""
        trial = Trial(self.spec.seeds[0], AS_FAST, self.spec.options.smaller or 1.0, LADDER)
        if store.read(trial) is None:
            return None
        return lambda: local.network(subject, store, trial).cpu()

    @property
    def shipped(self) -> bool:
        """Whether compiled networks were measured; where nothing could be, they were not."""
        return bool((read_shipped(self.directory, self.spec.hash) or {}).get("measured"))

    @checked(keep=_KEEP)
    def network(
        self,
        keep: float,
        *,
        criterion: str | None = None,
        seed: int | None = None,
        recovery: str | None = None,
    ) -> nn.Module:
        """Return the network that the study measured at a keep ratio, to be shipped.

        Args:
            keep: any keep ratio in (0, 1], also one that is no level of the study: on a ladder
                the network of the rung above it is then cut further.
            criterion: of the study; by default that of its primary sequence.
            seed: of the study; by default its first.
            recovery: of the study; by default that of its primary sequence.

        Returns:
            The task's own module, in evaluation mode, on the study's device, its cut weights
            exactly zero; where the task has `output`, the module gives what that is given.

        Raises:
            UsageError: the study has no such criterion, seed or recovery, or the keep ratio is
                impossible.
            StudyError: there is no such study in the directory, it is in use, or the network's
                stage failed in it.
        """
        return as_given(self._network(keep, criterion, seed, recovery))

    def _network(
        self, keep: float, criterion: str | None, seed: int | None, recovery: str | None
    ) -> nn.Module:
        options, seeds = self.spec.options, self.spec.seeds
        claimed, by = options.claim
        chosen = criterion or claimed
        ways = [r for r in options.recoveries if options.cuts(chosen, r)]
        how = recovery or (by if by in ways else next((r for r in ways if r != "none"), "none"))
        if chosen not in options.criteria:
            raise UsageError(
                f"criterion is {chosen!r}, but the study has only {', '.join(options.criteria)}"
            )
        if how not in ways:
            raise UsageError(
                f"recovery is {how!r}, but the study has {chosen!r} only with {', '.join(ways)}"
            )
        if seed is not None and seed not in seeds:
            raise UsageError(f"the study has seeds {seeds[0]} to {seeds[-1]}, not {seed}")
        read_spec(self.directory)  # a study that was never run has no network to give
        number = seeds[0] if seed is None else int(seed)
        trial = Trial(seed=number, criterion=chosen, keep=keep, recovery=how)
        with Store(self.directory, self.spec) as store:
            return local.network(Subject(self.task, self.spec, self.device), store, trial)

    @checked(keep=_KEEP)
    def onnx(
        self,
        keep: float,
        *,
        criterion: str | None = None,
        seed: int | None = None,
        recovery: str | None = None,
    ) -> bytes:
        """Return `network(keep)` as the content of an ONNX file, its batch free.

        Its output is the tensor that the metric is taken of. In a study with `int8` it is the
        quantised network that was measured, in QDQ form.
        """
        model = self._network(keep, criterion, seed, recovery).cpu()
        data = self.task.data(torch.device("cpu"))
        if self.spec.options.int8:
            number = self.spec.seeds[0] if seed is None else seed
            trial = Trial(number, criterion or self.spec.options.claim[0], keep, "")
            return quantised(model, data, seed_for(trial, "int8")).content
        example, _ = next(iter(data.evaluation("validation")))
        return to_onnx(model, head(example, 2))
