"""A study from Python: one call that runs, resumes and reports."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import machine
from secateur.arguments import FUNCTION, PATH, SEED, TEXT, Wanted, a, checked, unknown
from secateur.errors import StudyError, UsageError, printable
from secateur.export import to_onnx
from secateur.model.inputs import head
from secateur.study import report
from secateur.study.executors import local
from secateur.study.outputs import as_given
from secateur.study.plan import Observer, Trial
from secateur.study.preflight import try_out
from secateur.study.spec import Options, Spec
from secateur.study.store import Store, read_failures, read_records, read_spec, spec_hash
from secateur.study.subject import Subject
from secateur.study.summary import Summary, summarise
from secateur.study.task import ACCURACY, LABEL_SMOOTHING, Task, classification


@dataclass(frozen=True, slots=True)
class Results:
    """What a study found, and where its files are."""

    directory: Path
    summary: Summary
    files: report.ReportFiles


_KEEP = Wanted(lambda v: not isinstance(v, bool) and 0 < v <= 1, "a keep ratio in (0, 1]")


class Study:
    """A task and the plan to prune it.

    Args:
        task: what is trained; by default the default net on CIFAR-10.
        out: the study directory; by default `studies/<task>-<hash>` in the current folder, so
            that the same study is always found again, and another one never mixed with it.
        device: auto, cpu, cuda or cuda:N.
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
        **changes: Any,
    ) -> None:
        known = [field.name for field in fields(Options)]
        for name, value in changes.items():
            if name not in known:
                raise unknown("a study", name, known, value)
        options = replace(options or Options(), **changes)
        self.task = task or classification()
        self.spec = Spec.of(self.task, options)
        slug = "".join(c if c.isalnum() else "-" for c in self.task.name)
        default = Path("studies") / f"{slug}-{self.spec.hash[:12]}"
        self.directory = Path(out) if out is not None else default
        self.device = machine.device(str(device))

    @checked(observe=FUNCTION)
    def run(self, observe: Observer = lambda event: None) -> Results:
        """Do what is not done yet, then write the report.

        May be killed at any moment and called again: it ends in the same numbers.

        Args:
            observe: told of every item as it begins and ends.

        Raises:
            UsageError: the model cannot be built or has nothing to cut, the floors make a keep
                ratio impossible, or model, data, loss and metric do not go together; nothing is
                written then.
            StudyError: the directory belongs to another study, is in use, or some items failed,
                be it by an exception of the task's own code: a line for each, which `failures/`
                keeps with its traceback. The rest of the study and its report are there all the
                same, and the next run tries those items again.
            DataError, FileError: see their messages.
        """
        report.refuse_loss(self.directory)
        subject = Subject(self.task, self.spec, self.device)
        if not any((self.directory / "records").glob("*.json")):
            try_out(subject)
        with Store(self.directory, self.spec) as store:
            failures = local.execute(subject, store, observe)
            listed = "".join(f"\n- {text}" for text in failures)
            if failures and not any((self.directory / "records").glob("*_keep-*.json")):
                raise StudyError(f"nothing of the study could be done:{listed}")
            results = rebuild(self.directory)
        if failures:
            raise StudyError(
                f"some of the study could not be done; the rest is in {results.files.html}:{listed}"
            )
        return results

    @checked(keep=_KEEP, criterion=TEXT, seed=SEED)
    def network(
        self, keep: float, *, criterion: str = "gate", seed: int = 0, recovery: str | None = None
    ) -> nn.Module:
        """Return the network that the study measured at a keep ratio, to be shipped.

        Args:
            keep: any keep ratio in (0, 1], also one that is no level of the study.
            criterion: of the study.
            seed: number of the study's seed.
            recovery: none, batchnorm or finetune; by default the best that the study has.

        Returns:
            The task's own module, in evaluation mode, on the study's device, its cut weights
            exactly zero; where the task has `output`, the module gives what that is given.

        Raises:
            UsageError: the study has no such criterion or seed, or the keep ratio is impossible.
            StudyError: there is no such study in the directory, it is in use, or the network's
                stage failed in it.
        """
        return as_given(self._network(keep, criterion, seed, recovery))

    def _network(self, keep: float, criterion: str, seed: int, recovery: str | None) -> nn.Module:
        options = self.spec.options
        if criterion not in options.criteria:
            raise UsageError(
                f"the study has no criterion {criterion!r}, only {', '.join(options.criteria)}"
            )
        if not 0 <= seed < options.seeds:
            raise UsageError(f"the study has seeds 0 to {options.seeds - 1}, not {seed}")
        read_spec(self.directory)  # a study that was never run has no network to give
        best = ("finetune", "reconstruct", "batchnorm", "none")
        chosen = recovery or next(each for each in best if each in self.spec.recoveries)
        trial = Trial(seed=seed, criterion=criterion, keep=keep, recovery=chosen)
        with Store(self.directory, self.spec) as store:
            return local.network(Subject(self.task, self.spec, self.device), store, trial)

    @checked(keep=_KEEP, criterion=TEXT, seed=SEED)
    def onnx(self, keep: float, *, criterion: str = "gate", seed: int = 0) -> bytes:
        """Return `network(keep)` as the content of an ONNX file, its batch free.

        Its output is the tensor that the metric is taken of.
        """
        model = self._network(keep, criterion, seed, None).cpu()
        data = self.task.data(torch.device("cpu"))
        example, _ = next(iter(data.evaluation("validation")))
        return to_onnx(model, head(example, 2))


def opened(
    directory: Path, *, task: Task | None = None, data_dir: Path | None = None, device: str = "auto"
) -> Study:
    """Return the study in a directory, as `secateur study` wrote it.

    Args:
        directory: of the study.
        task: that it is of, if that is not a built-in one; a file that a study names is never
            run by itself.
        data_dir: of a built-in task's data.
        device: as of `Study`.

    Raises:
        StudyError: there is none, an older secateur made it, its task is not built in and was
            not given, or the one that was given is another.
    """
    spec = read_spec(directory)
    its = spec["task"]
    known, its_own = {field.name for field in fields(Options)}, _options(spec)
    if later := its_own.keys() - known:
        raise StudyError(
            f"the study in {directory} was made by a later secateur, whose studies have "
            f"{' and '.join(sorted(later))[:200]!a}; upgrade this one"
        )
    unknown = [field.name for field in fields(Options) if field.name not in its_own]
    if unknown:
        raise StudyError(
            f"the study in {directory} was made by an older secateur, whose studies had no "
            f"{' and no '.join(unknown)}; `secateur report` shows it, but for its networks run the "
            "study again, into another directory"
        )
    if task is None:
        if not _is_built_in(its):
            reference = printable(str(its.get("source", "mytask.py:task")))
            raise StudyError(
                f"the task of the study in {directory} is not built in; give it: "
                f"--task {reference}, or in Python opened(..., task=load_task({reference!r}))"
            )
        smoothing = its.get("label_smoothing", LABEL_SMOOTHING)
        task = classification(its["data"], its["net"], label_smoothing=smoothing, data_dir=data_dir)
    study = Study(task, Options(**_options(spec)), out=directory, device=device)
    if study.spec.hash != spec_hash(spec):
        raise StudyError(
            f"the study in {directory} is not of task {task.name!r} as it is now: its file, "
            "description or metric has changed since; give the one that the study was run with"
        )
    return study


def rebuild(directory: Path) -> Results:
    """Write a study's report anew from its records alone.

    Raises:
        StudyError: there is no study in the directory, or it has no records yet.
        FileError: the report cannot be written there.
    """
    spec = read_spec(directory)
    address = spec_hash(spec)
    trials, stages = read_records(directory, address)
    if not trials:
        raise StudyError(
            f"the study in {directory} has no usable record yet; run it with `secateur study` first"
        )
    files = report.write(
        directory,
        spec,
        address,
        trials,
        stages,
        command=command_of(spec),
        failures=read_failures(directory, address),
    )
    return Results(directory, summarise(spec, trials), files)


def _options(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        **spec["options"],
        "keep": tuple(spec["levels"]),
        "seeds": len(spec["seeds"]),
        "criteria": tuple(spec["criteria"]),
        "margin": spec["margin"],
        "confidence": spec["confidence"],
    }


def command_of(spec: dict[str, Any]) -> str:
    """Return the shell command that runs the study of a spec, options at their default left out.

    A task that is neither built in nor of `load_task` has no command: the Python call is shown.
    """
    given, task = _options(spec), spec["task"]
    changed = {
        field.name: given[field.name]
        for field in fields(Options)
        if field.name in given and given[field.name] != field.default
    }
    if _is_built_in(task):
        if changed.get("margin") == ACCURACY.declared:
            del changed["margin"]
        words = ["--data", str(task["data"]), "--net", str(task["net"])]
        if task.get("label_smoothing", LABEL_SMOOTHING) != LABEL_SMOOTHING:
            words += ["--label-smoothing", str(task["label_smoothing"])]
    elif "source" in task:
        words = [str(task["source"])]
    else:
        arguments = "".join(f", {name}={value!r}" for name, value in changed.items())
        return f"secateur.Study(task{arguments}).run()  # task: {task['name']}"
    for option, value in changed.items():
        name = option.replace("_", "-")
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        switch = [f"--{name}" if value else f"--no-{name}"]
        words += switch if isinstance(value, bool) else [f"--{name}", text]
    return shlex.join(["secateur", "study", *words])


def _is_built_in(task: dict[str, Any]) -> bool:
    """Whether the task is one of `classification`; a user's may describe itself by a net too."""
    return "source" not in task and task["name"] == f"{task.get('data')}/{task.get('net')}"
