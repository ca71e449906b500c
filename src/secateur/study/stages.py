"""The networks that the stages of a study train: made, kept on disk, and given again."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict

import torch
from torch import Tensor, nn

from secateur.errors import StudyError, TrainingError
from secateur.model.copying import copied
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.study.failure import told
from secateur.study.plan import Observer, Stage, seed_for
from secateur.study.store import Record, Store
from secateur.study.subject import Subject
from secateur.training import unpruned

HISTOGRAM_BINS = 64


class Stages:
    """Trains stages and loads their networks; holds the state that was loaded last."""

    def __init__(self, subject: Subject, store: Store, observe: Observer) -> None:
        self._subject, self._store, self._observe = subject, store, observe
        self.loaded: tuple[Stage, dict[str, Tensor]] | None = None  # to save time
        self._lost: dict[Stage, str] = {}

    def train(self, stage: Stage) -> Record:
        """Train the network of a stage, keep it, and record how it went."""
        start, subject, dense = time.perf_counter(), self._subject, stage.after
        if dense is None:
            torch.manual_seed(seed_for(stage, stage.name))
            model, data, loss = subject.fresh(), subject.data, subject.task.loss
        else:
            model = self.network(dense)
            data, loss = subject.taught(subject.spec.options.teach, lambda: self.network(dense))
        gates = Gates.attach(model, subject.prunable.names) if stage.name == "gates" else None
        axes, own = subject.prunable.axes, subject.task.train is not None
        with (
            learning(gates, subject.spec.gate_phase, axes=axes, any_decay=own)
            if gates
            else nullcontext(unpruned)
        ) as pruning:
            log = subject.train(
                model,
                stage,
                stage.name,
                data,
                loss,
                # gates and control share their batches, so that they differ by the cut alone
                seed="second" if dense else "train",
                pruning=pruning,
                observe=self._observe,
            )
        work = sum(epoch.seconds for epoch in log) or time.perf_counter() - start
        learned = gates.scores() if gates else {}
        record = {
            "stage": stage.name,
            "seed": stage.seed,
            "checkpoint": self._store.save_network(stage, model.state_dict()),
            "log": [asdict(epoch) for epoch in log],
            "excluded": dict(subject.prunable.excluded),
            "work": round(work, 3),
            **subject.provenance(start),
        }
        if learned:
            record["gates"] = {name: _histogram(score) for name, score in learned.items()}
        self._store.write(stage, record)
        return record

    def network(self, stage: Stage) -> nn.Module:
        """Return a fresh copy of a finished stage's network; trains it again if it was damaged."""
        if self.loaded is None or self.loaded[0] != stage:
            state = self._store.load_network(stage)
            self.loaded = stage, self._again(stage) if state is None else state
        model = copied(self._subject.model)
        if stage.name == "gates":
            Gates.attach(model, self._subject.prunable.names)
        model.load_state_dict(self.loaded[1])
        return model

    def uncut(self, stage: Stage) -> nn.Module:
        """Return a stage's network as a plain one, without gates."""
        model = self.network(stage)
        if stage.name == "gates":
            Gates.of(model).remove()
        return model

    def _again(self, stage: Stage) -> dict[str, Tensor]:
        """Train a stage whose network was lost; where that fails, it is tried once only."""
        if stage in self._lost:
            raise TrainingError(self._lost[stage])
        try:
            self.train(stage)
        except Exception as error:
            text = f"the network of {stage.id} was lost, and training it again failed: "
            self._lost[stage] = text + told(error)
            raise
        if (state := self._store.load_network(stage)) is None:
            raise StudyError(
                f"the checkpoint of {stage.id} cannot be read back from {self._store.directory}; "
                "look at that disk, then start the study again"
            )
        return state


def _histogram(gate: Tensor) -> dict[str, list[float] | list[int]]:
    counts, edges = torch.histogram(gate.detach().float().cpu().flatten(), HISTOGRAM_BINS)
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}
