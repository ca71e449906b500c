"""How far accuracy holds: criteria, recovery and gates side by side, against their controls.

    python benchmarks/accuracy.py FOLDER [--nets resnet20-given convnet] [--seeds 3]
        [--conditions joint fixed ...] [--weights resnet20-cifar10.safetensors]

Every (net, condition, seed) is one record in FOLDER, written when it is finished; one that is
there is not run again, so the command may be killed and started again, with other arguments too.
Printed and written (accuracy.csv, accuracy.svg) is the test accuracy at each sparsity: mean over
seeds, its 95 % interval, and gates minus the fixed order paired by seed.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

import accuracy_table
from accuracy_nets import (
    GIVEN,
    GIVEN_MEAN,
    GIVEN_STD,
    GRADUAL,
    IMAGES,
    KEEPS,
    NETS,
    Training,
    current,
    digest,
    settings_of,
)
from secateur import Budget, Gates, data, files, machine, nets, prunable, select
from secateur.data import ImageData
from secateur.data.images import Split
from secateur.distillation import Loss, SoftTargets, distilled
from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates.learning import learn_gates
from secateur.pruning.gates.self_pruning import SelfPruning
from secateur.pruning.ladder.descent import descend
from secateur.pruning.ladder.gradual import prune_gradually
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.recovery.finetune import finetune
from secateur.study.task import TEMPERATURE, percent_correct
from secateur.training import Data, Epoch, precision_of, train

DATA_BATCH = 256

SCORED = ("magnitude", "random", "lamp", "wanda", "taylor", "obs")
"""Conditions that cut the dense network by a criterion and recalibrate it."""
CONDITIONS = (
    *SCORED,
    "reconstruct",
    "frozen",
    "fixed",
    "joint",
    "finetuned",
    "descended",
    "descended-fixed",
    "frozen-descended",
    "control",
    "self-pruning",
)


class Bench:
    """One net and one seed: trains, cuts, recovers, measures, and keeps the records."""

    def __init__(self, name: str, seed: int, given: argparse.Namespace) -> None:
        self._name, self._seed, self._net = name, seed, NETS[name]
        self._folder: Path = given.folder
        self._device = machine.device(given.device)
        self._compile: bool = given.compile
        images = data.load("cifar10", data_dir=given.data_dir).to(self._device)
        if self._net.phase1 is None:
            everything = Split(
                torch.cat([images.train.images, images.validation.images]),
                torch.cat([images.train.labels, images.validation.labels]),
            )
            images = replace(
                images, train=everything, mean=GIVEN_MEAN, std=GIVEN_STD, augmentation=GIVEN
            )
        self._data: ImageData = images
        self._weights: Path | None = given.weights
        self._autocast = precision_of(self._net.finetune, self._device) != "fp32"
        self._loss = partial(F.cross_entropy, label_smoothing=self._net.label_smoothing)

    def run(self, condition: str) -> None:
        """Make the record of a condition, unless it is there."""
        settings = settings_of(self._net, condition)
        path = self._path(condition, settings, "json")
        if path.exists():
            return
        start = time.perf_counter()
        log: tuple[Epoch, ...] = ()
        keeps = KEEPS
        if condition in SCORED:
            model = self.dense()
            cut = partial(self._cut, model, self._scores(model, condition))
        elif condition == "reconstruct":
            cut = self._reconstructed().__getitem__
        elif condition == "self-pruning":
            model, importances, log = self._self_pruned()
            cut = partial(self._cut, model, importances["product"])
        else:
            way = self._net.training(condition)
            assert way is not None
            model, log = self._trained(condition, way)
            scores = self._scores(model, "gate" if way.phase else "magnitude")
            cut = partial(self._cut, model, scores)
            if way.finetune:
                keeps = tuple(self._net.goals["finetuned"])
                cut = partial(self._finetuned, model, scores, way)
            if way.rungs:
                keeps = tuple(rung.keep for rung in way.rungs)
                cut = self._descended(model, way).__getitem__
        accuracy = {f"{keep:g}": self._measure(cut(keep)) for keep in keeps}
        record = {
            "net": self._name,
            "condition": condition,
            "seed": self._seed,
            "settings": settings,
            "accuracy": accuracy,
            "seconds": round(time.perf_counter() - start, 1),
            "log": [asdict(epoch) for epoch in log],
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "precision": "bf16 autocast" if self._autocast else "fp32",
            "threads": torch.get_num_threads(),
            "compiled": self._compile,
            "versions": machine.versions(),
            "hardware": machine.describe(),
        }
        if condition == "self-pruning":
            record["order"] = {
                kind: {
                    f"{keep:g}": self._measure(self._cut(model, scores, keep))["validation"]
                    for keep in KEEPS
                }
                for kind, scores in importances.items()
            }
        files.write(path, json.dumps(record) + "\n")
        tests = [f"{value['test']:.2f}" for value in accuracy.values()]
        self._say(condition, f"{' '.join(tests)}  ({record['seconds']} s)")

    def dense(self) -> nn.Module:
        """Return the network that every condition but self-pruning starts from."""
        model = self._fresh()
        if self._net.phase1 is None:
            assert self._weights is not None
            model.load_state_dict(load_file(self._weights))
            return model
        path = self._path("dense", {"recipe": asdict(self._net.phase1)}, "safetensors")
        if not path.exists():
            train(
                model,
                self._data,
                self._net.phase1,
                self._loss,
                seed=self._number("train"),
                watch=partial(self._watch, "dense"),
            )
            _save(model, path)
        model.load_state_dict(load_file(path))
        return model

    def _fresh(self) -> nn.Module:
        torch.manual_seed(self._number("train"))
        model = nets.build(self._net.net).to(self._device)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._compile:
            model.compile()  # in place: keys and hooks are the model's own; copies run as before
        return model

    def _trained(self, condition: str, way: Training) -> tuple[nn.Module, tuple[Epoch, ...]]:
        """Train a copy of the dense network on; all conditions see the same batches."""
        model = self.dense()
        names = prunable(model).names
        if way.recipe is None:
            Gates.attach(model, names)
            return model, ()
        # what fine-tuning starts from is shared with the condition that leaves it out
        left_out = {"finetune": None, "rungs": (), "rung_phase": None}
        settings = settings_of(self._net, condition) | left_out
        settings.pop("follow", None)
        kind = condition.replace("finetuned", "joint").replace("descended", "joint")
        path = self._path(kind, settings, "safetensors")
        if path.exists():
            if way.phase:
                Gates.attach(model, names)
            model.load_state_dict(load_file(path))
            return model, ()
        batches, loss = self._taught(way)
        seed, watch = self._number("second"), partial(self._watch, condition)
        if way.phase is None:
            log = train(model, batches, way.recipe, loss, seed=seed, watch=watch)
        else:
            log = learn_gates(
                model, names, batches, way.recipe, loss, phase=way.phase, seed=seed, watch=watch
            )
        _save(model, path)
        return model, log

    def _taught(self, way: Training, teacher: nn.Module | None = None) -> tuple[Data, Loss]:
        """Return data and loss that follow a teacher, by default dense, as far as `way` does."""
        imitation, teacher = SoftTargets(way.temperature), teacher or self.dense()
        if self._compile:
            teacher = torch.compile(teacher)  # stays compiled when it is copied
        return distilled(
            self._data, self._loss, teacher, imitation, way.teach, autocast=self._autocast
        )

    def _finetuned(
        self, model: nn.Module, scores: Mapping[str, Tensor], way: Training, keep: float
    ) -> nn.Module:
        """Return a cut copy, trained on under its masks."""
        assert way.finetune is not None
        cut, masks = self._cut(model, scores, keep), select(scores, Budget(keep))
        teacher = None
        if way.follow:
            way = replace(way, teach=way.follow, temperature=TEMPERATURE)
            teacher = self._cut(model, scores, 1.0)
            recalibrate(teacher, self._images("recalibration"), autocast=self._autocast)
        batches, loss = self._taught(way, teacher)
        seed, watch = self._number("finetune"), partial(self._watch, f"finetuned to {keep:g}")
        finetune(cut, masks, batches, loss, recipe=way.finetune, seed=seed, watch=watch)
        return cut

    def _descended(self, model: nn.Module, way: Training) -> dict[float, nn.Module]:
        """Return keep ratio → network as it was on that rung."""
        found: dict[float, nn.Module] = {}
        if way.phase and way.phase.order == "fixed":  # a trunk leaves the order of its start
            for gate in Gates.of(model).values().values():
                gate.zero_()
        batches, loss = self._taught(way)
        seed, watch = self._number("descend"), partial(self._watch, "descended")
        unlabelled = None
        if any(rung.reconstruct for rung in way.rungs):
            unlabelled = Calibration(tuple(self._images("reconstruction")), autocast=self._autocast)
        for rung, masks in descend(
            model,
            way.rungs,
            batches,
            loss,
            phase=way.rung_phase or way.phase,
            calibration=unlabelled,
            seed=seed,
            watch=watch,
        ):
            there = copy.deepcopy(model)
            Gates.of(there).remove()
            masks.apply(there)
            found[rung.keep] = there
        return found

    def _self_pruned(
        self,
    ) -> tuple[nn.Module, dict[str, dict[str, Tensor]], tuple[Epoch, ...]]:
        """Train phase 1 with sigmoid gates, for as long as phases 1 and 2 take together."""
        assert self._net.phase1 is not None
        model = self._fresh()
        gates = SelfPruning(model, prunable(model).names)
        assert self._net.joint.recipe is not None
        epochs = self._net.phase1.epochs + self._net.joint.recipe.epochs
        log = train(
            model,
            self._data,
            replace(self._net.phase1, epochs=epochs),
            self._loss,
            seed=self._number("train"),
            pruning=gates.step,
            watch=partial(self._watch, "self-pruning"),
        )
        importances = gates.scores()
        gates.fold()
        return model, importances, log

    def _reconstructed(self) -> dict[float, nn.Module]:
        """Return keep ratio → network, pruned from unlabelled images alone."""
        dense = self.dense().eval()
        images = Calibration(tuple(self._images("recalibration")), autocast=self._autocast)
        budgets = [Budget(keep) for keep in KEEPS]
        results = prune_gradually(dense, prunable(dense).names, budgets, images, **GRADUAL)
        return {keep: model for keep, (model, _, _) in zip(KEEPS, results, strict=True)}

    def _scores(self, model: nn.Module, criterion: str) -> dict[str, Tensor]:
        names, seen = prunable(model).names, None
        if CRITERIA[criterion].needs != "nothing":
            generator = torch.Generator().manual_seed(self._number("criterion"))
            batches = self._data.epoch(DATA_BATCH, generator)
            inputs, targets = zip(*islice(batches, IMAGES // DATA_BATCH), strict=True)
            seen = Calibration(inputs, targets, self._loss, self._autocast)
        return CRITERIA[criterion].scores(model, names, seed=self._seed, calibration=seen)

    def _cut(self, model: nn.Module, scores: Mapping[str, Tensor], keep: float) -> nn.Module:
        """Return a cut copy."""
        cut = copy.deepcopy(model)
        if any(name.endswith("_gate") for name, _ in cut.named_buffers()):
            Gates.of(cut).remove()
        select(scores, Budget(keep)).apply(cut)
        return cut

    def _measure(self, model: nn.Module) -> dict[str, float]:
        """Recalibrate in place and return the accuracy on held-out and test data, in %."""
        recalibrate(model, self._images("recalibration"), autocast=self._autocast)
        splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
        return {
            split: evaluate(
                model, self._data.evaluation(split), percent_correct, autocast=self._autocast
            )
            for split in splits[self._net.phase1 is None :]
        }

    def _images(self, purpose: str) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self._number(purpose))
        return self._data.calibration(IMAGES, DATA_BATCH, generator)

    def _number(self, purpose: str) -> int:
        """Return a seed of its own for each purpose."""
        text = f"{self._name} {self._seed} {purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def _path(self, condition: str, settings: Mapping[str, Any], ending: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        kind = condition.replace(" ", ",")
        name = f"{self._name}_{kind}_{self._seed}_{digest(settings)}.{ending}"
        return self._folder / name

    def _watch(self, condition: str, epoch: Epoch) -> None:
        self._say(condition, f"epoch {epoch.epoch} loss {epoch.loss:.3f} {epoch.seconds:.0f} s")

    def _say(self, condition: str, text: str) -> None:
        now = f"{datetime.now(UTC):%H:%M:%S}"
        print(f"{now} {self._name} seed {self._seed} {condition}: {text}", file=sys.stderr)


def _save(model: nn.Module, path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    files.write(path, save(state))


def main() -> int:
    """Run what is missing, then print and write the table of all that is known of these nets."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="records, checkpoints and tables go here")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["resnet20-given", "convnet"])
    parser.add_argument(
        "--conditions",
        nargs="+",
        default=list(CONDITIONS),
        help="'joint gate_rate=10 epochs=3', in quotes, changes fields of a condition",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--weights", type=Path, help="resnet20-cifar10.safetensors")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR-10; else the cache")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--compile", action="store_true", help="what trains runs through torch.compile: for GPUs"
    )
    parser.add_argument("--threads", type=int, help="of torch; two runs may share a folder")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    given = parser.parse_args()
    for condition in given.conditions:
        if condition.split()[0] not in CONDITIONS:
            parser.error(f"there is no condition {condition!r}; choose of {', '.join(CONDITIONS)}")
        for name in given.nets:
            try:
                NETS[name].training(condition)
            except (UsageError, ValueError) as error:
                parser.error(str(error))
    if not given.table:
        for name in given.nets:
            if NETS[name].phase1 is None and not (given.weights and given.weights.is_file()):
                parser.error(f"{name} needs --weights, the file resnet20-cifar10.safetensors")
        torch.set_num_threads(given.threads or torch.get_num_threads())
        torch.backends.cudnn.benchmark = True
        for seed in given.seeds:
            for name in given.nets:
                bench = Bench(name, seed, given)
                for condition in given.conditions:
                    if condition == "self-pruning" and NETS[name].phase1 is None:
                        continue  # it is a form of phase 1
                    bench.run(condition)
    records = accuracy_table.read(given.folder, given.nets, current)
    if not records:
        parser.error(f"{given.folder} holds no record of today's settings")
    accuracy_table.write(given.folder, records, {name: net.goals for name, net in NETS.items()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
