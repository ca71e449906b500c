"""The networks that the stages of a study train: made, kept on disk, and given again."""

from __future__ import annotations

import time
from dataclasses import asdict

import torch
from torch import Tensor, nn

from secateur.errors import StudyError, TrainingError, UsageError
from secateur.model.copying import copied
from secateur.model.inputs import head
from secateur.pruning.gates.gates import Gates
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.patterns import parse
from secateur.pruning.smaller.reordering import reorder
from secateur.study import matched, plan
from secateur.study.checkpoints import Saved
from secateur.study.examples import recalibrate
from secateur.study.failure import told
from secateur.study.plan import AS_FAST, GATE, SMALLER, START, Observer, Stage, seed_for
from secateur.study.second import Log, SecondPhase
from secateur.study.store import Record, Store
from secateur.study.subject import Subject

HISTOGRAM_BINS = 64
_HALVINGS = 24  # of the range of widths, until the width is found


class Stages:
    """Trains stages and loads their networks; holds what was loaded last."""

    def __init__(self, subject: Subject, store: Store, observe: Observer) -> None:
        self._subject, self._store, self._observe = subject, store, observe
        self._second = SecondPhase(subject, observe, self._teacher)
        self._loaded: tuple[Stage, Saved] | None = None  # to save time
        self._lost: dict[Stage, str] = {}

    def forget(self) -> None:
        """Let go of what is held to save time."""
        self._loaded = None
        self._second.forget()

    def train(self, stage: Stage) -> Record:
        """Train the network of a stage, keep it, and record how it went."""
        begun, subject = time.perf_counter(), self._subject
        extra: Record = {}
        masks: Masks | None = None
        above: Masks | None = None
        before = plan.before(subject.spec.options, stage)
        if before is not None:
            model, above = self.network(before), self.masks(before)
            log, masks = self._second.train(stage, model, above)
        elif stage.name in SMALLER:
            extra["width"] = self._width(stage)
            if stage.name == AS_FAST and (found := self._store.matched()):
                extra["matched"] = matched.as_json(found)
            model, log = self._fresh(stage, extra["width"])
            log += self._second.plainly(stage, model)
        else:
            model, log = self._fresh(stage, 1.0)
            self._reorder(model)
        if stage.name == GATE:
            learned = Gates.of(model).scores()  # of what was to be had: the rest was cut above
            among = {name: score[above[name]] for name, score in learned.items()} if above else {}
            extra["gates"] = {name: _histogram(s) for name, s in (learned | among).items()}
        record = {
            "stage": stage.name,
            "seed": stage.seed,
            "keep": stage.keep,
            "checkpoint": self._store.save_network(stage, Saved(model.state_dict(), masks)),
            "log": [asdict(epoch) for epoch in log],
            "excluded": dict(subject.prunable.excluded),
            "work": round(sum(e.seconds for e in log) or time.perf_counter() - begun, 3),
            **extra,
            **subject.provenance(begun),
        }
        self._store.write(stage, record)
        return record

    def network(self, stage: Stage) -> nn.Module:
        """Return a fresh copy of a finished stage's network; trains it again if it was damaged."""
        saved, subject = self._saved(stage), self._subject
        if stage.name in SMALLER:
            record = self._store.read(stage)
            model = subject.narrow(self._width(stage) if record is None else record["width"])
        else:
            model = copied(subject.model)
        if stage.name == GATE:
            Gates.attach(model, subject.prunable.names)
        model.load_state_dict(saved.network)
        return model

    def uncut(self, stage: Stage) -> nn.Module:
        """Return a stage's network as a plain one, without gates."""
        model = self.network(stage)
        if stage.name == GATE:
            Gates.of(model).remove()
        return model

    def masks(self, stage: Stage) -> Masks | None:
        """Return what a finished stage has kept; None where nothing was cut."""
        masks, device = self._saved(stage).masks, self._subject.device
        return None if masks is None else Masks({n: m.to(device) for n, m in masks.items()})

    def _fresh(self, stage: Stage, width: float) -> tuple[nn.Module, Log]:
        """Build a network and train it plainly, as the start is."""
        subject = self._subject
        torch.manual_seed(seed_for(stage, "train"))
        model = subject.fresh() if width == 1 else subject.narrow(width)
        log = subject.train(
            model,
            stage,
            subject.spec.first,
            subject.data,
            subject.task.loss,
            seed="train",
            observe=self._observe,
        )
        return model, log

    def _reorder(self, model: nn.Module) -> None:
        """Put a start's channels in the order that suits its pattern; its outputs stay."""
        subject = self._subject
        if size := parse(subject.spec.options.pattern).together:
            few = next(iter(subject.data.evaluation("validation")))[0]
            model.load_state_dict(reorder(model, head(few, 2), size=size).model.state_dict())

    def _teacher(self, stage: Stage) -> nn.Module:
        """Return the start that a stage follows, its batch norms recalibrated."""
        start = Stage(stage.seed, START)
        teacher = self.network(start)
        recalibrate(self._subject, teacher, start)
        return teacher

    def _width(self, stage: Stage) -> float:
        """Return the width of the largest network that is as small, or was measured as fast."""
        if stage.name == AS_FAST:
            found = self._store.matched()
            if found is None or found.width is None:
                raise StudyError(
                    f"the width of {stage.id} is not known: matched.json is lost or damaged in "
                    f"{self._store.directory}; put it back, or run the study again with --measure"
                )
            return found.width
        return self._as_small(stage)

    def _as_small(self, stage: Stage) -> float:
        """Return the width of the largest network of no more weights than a cut one has left."""
        subject = self._subject
        whole = _parameters(subject.model)
        named = dict(subject.model.named_parameters())
        total = sum(named[name].numel() for name in subject.prunable.names)
        budget = whole - total + round(stage.keep * total)
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = _parameters(subject.narrow(middle)) <= budget
            low, high = (middle, high) if fits else (low, middle)
        if not low:
            raise UsageError(
                f"no smaller network of task {subject.task.name!r} has as few weights as a cut "
                f"one keeps ({budget:,}); set smaller to 0"
            )
        return low

    def _saved(self, stage: Stage) -> Saved:
        if self._loaded is None or self._loaded[0] != stage:
            saved = self._store.load_network(stage)
            self._loaded = stage, self._again(stage) if saved is None else saved
        return self._loaded[1]

    def _again(self, stage: Stage) -> Saved:
        """Train a stage whose network was lost; where that fails, it is tried once only."""
        if stage in self._lost:
            raise TrainingError(self._lost[stage])
        try:
            self.train(stage)
        except Exception as error:
            text = f"the network of {stage.id} was lost, and training it again failed: "
            self._lost[stage] = text + told(error)
            raise
        if (saved := self._store.load_network(stage)) is None:
            raise StudyError(
                f"the checkpoint of {stage.id} cannot be read back from {self._store.directory}; "
                "look at that disk, then start the study again"
            )
        return saved


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _histogram(gate: Tensor) -> dict[str, list[float] | list[int]]:
    counts, edges = torch.histogram(gate.detach().float().cpu().flatten(), HISTOGRAM_BINS)
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}
