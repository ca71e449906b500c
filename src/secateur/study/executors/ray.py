"""Groups of a study as tasks of a Ray cluster, and all files written by this process.

Ray runs the tasks; which node gets which group is decided here. A group goes where the networks
are that it comes from, and elsewhere where that node is busy: Ray's own soft affinity would wait.
All groups of a seed go to nodes of one kind, since bits differ between kinds.
"""

from __future__ import annotations

import json
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from secateur import machine
from secateur.data.images import ImageData
from secateur.errors import StudyError, UsageError
from secateur.study.executors.cluster import WAIT, Cluster, Node
from secateur.study.executors.messages import event_of, packed, unpacked
from secateur.study.executors.node import Brief, Order, as_array, clear, shared, work
from secateur.study.executors.side import Side
from secateur.study.executors.turn import Execute
from secateur.study.failure import told
from secateur.study.plan import START, Event, Item, Observer, Stage, groups, needs
from secateur.study.reading import CorruptFile
from secateur.study.store import Store, UnwritableError
from secateur.study.subject import Subject

_TRIES = 3
"""Workers that may die of an item, until it counts as failed."""
_LOSSES = 10
"""Nodes that may be lost while they do an item: that is seldom its fault."""
_REST = 5.0  # seconds for which a node gets nothing after a loss, where there are others
_TICK = 1.0  # seconds between two looks at the cluster, where nothing is heard


@dataclass(eq=False)
class _Job:
    """A group under way: its stream of messages, where, and what it is doing."""

    group: int
    node: Node
    stream: Any
    item: Item | None = None
    lacking: frozenset[str] = frozenset()


@dataclass
class _Places:
    """Where the networks of stages are, which kind a seed is of, and which nodes rest."""

    of_stage: dict[Stage, set[str]] = field(default_factory=dict)
    of_seed: dict[int, str] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)

    def count(self, node: str, stages: frozenset[Stage]) -> int:
        return sum(node in self.of_stage.get(stage, ()) for stage in stages)

    def lose(self, node: str, stages: Sequence[Stage] | None = None) -> None:
        for stage in self.of_stage if stages is None else stages:
            self.of_stage.get(stage, set()).discard(node)


def on_ray(cluster: Cluster) -> Execute:
    """Return the executor of a cluster that is connected to, for `Study.run`.

    A worker or a node that is lost costs what it was doing, which is done again, and no number.
    What this process has heard of is written: when it dies, the study goes on from there.

    The executor raises as `local.execute`; UsageError where the task cannot be made on other
    machines, and StudyError where no node is left that could go on.
    """
    return partial(_execute, cluster=cluster)


def _execute(
    subject: Subject, store: Store, observe: Observer, *, cluster: Cluster
) -> tuple[str, ...]:
    task = subject.task
    if task.reference is None:
        raise UsageError(
            f"task {task.name!r} was made in this process and cannot be imported on other "
            "machines; give it as FILE.py:NAME, with load_task in Python"
        )
    if subject.device.type == "cuda" and not cluster.gpus:
        raise UsageError(
            f"device {subject.device} was asked for, but an item takes no GPU of the cluster; give "
            "--gpus, 1 or a part of it"
        )
    return _Run(subject, store, observe, cluster).run()


class _Run:
    """One run of a study: what is under way, and what is known of the nodes."""

    def __init__(self, subject: Subject, store: Store, observe: Observer, cluster: Cluster) -> None:
        spec = subject.spec
        self._subject, self._store, self._observe = subject, store, observe
        self._cluster, self._ray, self._options = cluster, cluster.ray, spec.options
        planned = groups(spec.options, spec.seeds, matched=store.can_match)
        self._side = Side(spec, store, observe, planned)
        self._items = {item.id: item for group in self._side.planned for item in group.items}
        self._jobs: list[_Job] = []
        self._places = _Places()
        self._sent: dict[Stage, Any] = {}  # what is in the object store
        self._told: set[Item] = set()
        self._deaths: Counter[Item] = Counter()
        self._losses: Counter[Item] = Counter()
        self._brief = Brief(
            task=dict(subject.task.reference or {}),
            spec=json.loads(spec.canonical()),
            device=cluster.device,
            run=f"{spec.hash[:12]}-{uuid.uuid4().hex[:8]}",
            file=_file_of(subject.task.reference or {}),
            matched=store.packed_matched(),
        )

    def run(self) -> tuple[str, ...]:
        """Do it; see `on_ray`."""
        side = self._side
        for item, record in side.look().items():
            if isinstance(item, Stage) and item.name == START:
                self._places.of_seed[item.seed] = machine.kind(record["hardware"])
        if side.over():
            return ()
        images = self._subject.data
        given = shared(images) if isinstance(images, ImageData) else None
        self._data = self._ray.put(given)  # once; each node fetches it once
        self._work = self._cluster.remote(work)
        self._cluster.ask_for(sum(bool(group.after) for group in side.planned))
        waited = time.monotonic()
        try:
            while self._jobs or not side.over():  # a task that has done its group still ends
                self._cluster.look()
                self._assign()
                if self._jobs:
                    self._hear()
                    waited = time.monotonic()
                elif time.monotonic() - waited > WAIT:
                    raise StudyError(self._why_nothing())
                else:
                    time.sleep(min(_TICK, WAIT))
        finally:
            self._end()
        return tuple(side.failures)

    # Which group where.

    def _assign(self) -> None:
        """Give groups to free nodes: first those whose networks are there, then the others."""
        left = self._cluster.slots - len(self._jobs)
        if left <= 0:
            return
        free = Counter({node.id: node.slots for node in self._cluster.nodes})
        free.subtract(job.node.id for job in self._jobs)
        waiting = self._side.ready()
        for at_home in (True, False):
            for group in list(waiting):
                if left <= 0:
                    return
                node = self._node_for(group, free, at_home=at_home)
                if node is not None:
                    waiting.remove(group)
                    free[node.id] -= 1
                    left -= 1
                    self._begin(group, node)

    def _node_for(self, group: int, free: Mapping[str, int], *, at_home: bool) -> Node | None:
        seed, now = self._side.planned[group].items[0].seed, time.monotonic()
        kind, stages = self._places.of_seed.get(seed), self._comes_from(group)
        nodes = [n for n in self._cluster.nodes if free[n.id] > 0 and kind in (None, n.kind)]
        awake = [node for node in nodes if self._places.resting.get(node.id, 0) < now]
        if at_home and stages:
            awake = [node for node in awake if self._places.count(node.id, stages)]
        elif not awake and len(self._cluster.nodes) == len(nodes):
            awake = nodes  # there is no other
        best = max(
            awake,
            key=lambda n: (self._places.count(n.id, stages), free[n.id]),
            default=None,
        )
        if best is not None:
            self._places.of_seed.setdefault(seed, best.kind)
        return best

    def _comes_from(self, group: int) -> frozenset[Stage]:
        items = self._side.planned[group].items
        before: frozenset[Stage] = frozenset().union(*(needs(self._options, i) for i in items))
        return before - set(items)

    def _why_nothing(self) -> str:
        waiting = {self._side.planned[group].items[0].seed for group in self._side.ready()}
        there = sorted({node.kind for node in self._cluster.nodes})
        if not there:
            return (
                "no node of the Ray cluster is left that an item fits on; start nodes, then run "
                "the study again: it goes on where it was"
            )
        kinds = sorted({self._places.of_seed[seed] for seed in waiting & {*self._places.of_seed}})
        return (
            f"what is left, of seed "
            f"{', '.join(map(str, sorted(waiting)))}, began on other machines "
            f"({'; '.join(kinds)}) than there are now ({'; '.join(there)}), and a seed is not "
            "compared across kinds of machines; start nodes of that kind, then run the study again"
        )

    # A group's beginning, messages and end.

    def _begin(self, group: int, node: Node) -> None:
        """Submit a group, with the networks that the node does not have."""
        side, options = self._side, self._options
        items = [item for item in side.planned[group].items if item not in side.failed]
        done = [item for item in items if self._store.read(item) is not None]
        stages: set[Stage] = set()
        new = {s for i in items if i not in done for s in needs(options, i)}
        networks: dict[str, str] = {}
        while new := {stage for stage in new if stage not in stages}:
            stages |= new
            further: set[Stage] = set()
            for stage in new:
                if (record := self._store.read(stage)) is None:
                    continue
                there = node.id in self._places.of_stage.get(stage, ())
                if there or self._put(stage):
                    networks[_file(stage)] = record["checkpoint"]
                else:  # it is lost, so that it will be trained again, from what is above it
                    further |= needs(options, stage)
            new = further
        sent = {_file(stage): ref for stage, ref in self._sent.items() if stage in stages}
        known = [item for item in {*done, *stages} if self._store.read(item) is not None]
        order = Order(
            group=group,
            failed=[packed(item) for item in side.failed],
            records={f"{item.id}.json": self._store.packed_record(item) for item in known},
            missing=tuple(f"{item.id}.json" for item in items if item not in done),
            networks=networks,
            sent=sent,
        )
        task = self._work.options(scheduling_strategy=self._cluster.on(node.id))
        side.begun.add(group)
        self._jobs.append(_Job(group, node, task.remote(self._brief, node.id, order, self._data)))

    def _hear(self) -> None:
        """Take in what groups say, or see that one is lost."""
        by_stream = {job.stream: job for job in self._jobs}
        heard, _ = self._ray.wait(list(by_stream), num_returns=1, timeout=_TICK)
        for job in (by_stream[stream] for stream in heard):
            try:
                messages = self._ray.get(next(job.stream))
            except StopIteration:
                self._ended(job)
            except self._ray.exceptions.RayTaskError as error:
                raise StudyError(f"on node {job.node.name}: {told(error.cause)}") from error
            except self._ray.exceptions.RayError as error:
                self._lost(job, error)
            else:
                for message in messages:
                    self._take(job, message)

    def _take(self, job: _Job, message: Mapping[str, Any]) -> None:
        if "file" in message:
            self._write(job, message["file"], message["content"].tobytes())
        elif "event" in message:
            event = event_of(dict(message))
            job.item = event.item if event.kind in ("begin", "epoch") else None
            if event.kind in ("failed", "omitted"):
                self._side.failed.add(event.item)
            if event.kind != "found" or event.item not in self._told:
                self._observe(event)
            if event.kind in ("found", "done"):
                self._told.add(event.item)
        elif "ended" in message:
            self._side.ended.add(job.group)
            self._side.failed |= {unpacked(item) for item in message["failed"]}
        elif "warning" in message:
            kind = CorruptFile if message["corrupt"] else UserWarning
            warnings.warn(f"on node {job.node.name}: {message['warning']}", kind, 2)
        elif "fatal" in message:
            raise (UnwritableError if message["fatal"] == "file" else StudyError)(message["text"])
        elif "lacking" in message:
            job.lacking = frozenset(message["lacking"])

    def _write(self, job: _Job, name: str, content: bytes) -> None:
        """Write a file of the study, as the node has it."""
        folder, _, file = name.partition("/")
        item = self._items.get(Path(file).stem)
        if item is None:
            raise StudyError(f"node {job.node.name} sent {name[:120]!r}, which was not planned")
        self._store.take(name, content)
        if folder == "checkpoints" and isinstance(item, Stage):
            self._sent.pop(item, None)
            self._places.of_stage[item] = {job.node.id}
        elif folder == "failures":
            why = self._store.why_failed(item) or "it is not known why"
            self._side.failures.append(self._store.said_of(item, why))

    def _ended(self, job: _Job) -> None:
        """Take in that a group's stream has ended, done or not."""
        self._jobs.remove(job)
        if job.group not in self._side.ended:  # it lacks what was thought to be there
            names = job.lacking
            self._places.lose(job.node.id, [s for s in self._places.of_stage if _file(s) in names])
            self._side.begun.discard(job.group)
        else:
            for stage in self._comes_from(job.group):
                self._places.of_stage.setdefault(stage, set()).add(job.node.id)
            self._forget()

    def _lost(self, job: _Job, error: Exception) -> None:
        """Take in that a worker or a node is lost: what it was doing is done again, for a while."""
        if job.group in self._side.ended:  # it died after that
            self._ended(job)
            return
        self._jobs.remove(job)
        self._side.begun.discard(job.group)
        self._places.resting[job.node.id] = time.monotonic() + _REST
        crashed = (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError)
        item = job.item or self._side.first_left(job.group)
        if item is None:
            return
        if self._store.read(Stage(item.seed, START)) is None:
            self._places.of_seed.pop(item.seed, None)  # it has nothing of that kind
        if isinstance(error, crashed):
            self._deaths[item] += 1
        else:
            self._losses[item] += 1
            self._places.lose(job.node.id)
            self._cluster.look(patience=0.01)  # the node may be gone
        if self._deaths[item] >= _TRIES or self._losses[item] >= _LOSSES:
            many = self._deaths[item] >= _TRIES
            who = f"{self._deaths[item]} workers" if many else f"{self._losses[item]} nodes"
            why = (
                f"{who} died while they did it, perhaps because memory ran out "
                f"({told(error)[:200]}); give it more --cpus, so that fewer run on a node"
            )
            self._side.fail(item, StudyError(why))
        else:
            self._observe(Event("lost", item))

    # Networks in the object store.

    def _put(self, stage: Stage) -> bool:
        """Put a checkpoint into the object store, from where nodes fetch it; False if it is lost.

        It is of the study's directory, not of the node that made it, so it stays when that goes.
        """
        if stage not in self._sent:
            content = self._store.packed_network(stage)
            if content is None:
                return False
            self._sent[stage] = self._ray.put(as_array(content))
        return True

    def _forget(self) -> None:
        """Let the object store go of the networks of seeds that are done."""
        left = {
            self._side.planned[at].items[0].seed
            for at in range(len(self._side.planned))
            if at not in self._side.ended
        }
        self._sent = {stage: ref for stage, ref in self._sent.items() if stage.seed in left}

    def _end(self) -> None:
        """Stop what runs, and remove the scratch folders; as far as the cluster is there."""
        self._cluster.ask_for(0)
        with suppress(Exception):
            for job in self._jobs if not self._cluster.ours else ():  # else the connection ends
                self._ray.cancel(job.stream, force=True)
            clearing = self._cluster.remote(clear, num_cpus=0, num_gpus=0)
            self._ray.wait(
                asked := [
                    clearing.options(scheduling_strategy=self._cluster.on(node.id)).remote(
                        self._brief, node.id
                    )
                    for node in self._cluster.nodes
                ],
                num_returns=len(asked),
                timeout=5.0,
            )


def _file(stage: Stage) -> str:
    return f"{stage.id}.safetensors"


def _file_of(reference: Mapping[str, Any]) -> tuple[str, bytes] | None:
    """Return name and content of the file that a task is of, which nodes may not have."""
    path = Path(str(reference.get("load", "")).rpartition(":")[0])
    return (path.name, path.read_bytes()) if path.suffix == ".py" and path.is_file() else None
