"""A Ray cluster that studies are done on: how it is reached, its nodes, and what fits on them."""

from __future__ import annotations

import math
import os
import platform
import socket
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from secateur import machine
from secateur.arguments import Wanted, checked, is_real
from secateur.errors import StudyError, UsageError, whole
from secateur.study.executors.processes import KEEP_MEMORY, ONE_THREAD
from secateur.study.failure import told

WAIT = 60.0
"""Seconds for which a study waits for a node that can do something of it."""
_LOOK = 2.0  # seconds between two looks at which nodes there are
_REACH = 10.0  # seconds in which a cluster must answer
_SETTINGS, _HEADER = b"\4", 9  # the kind of a frame of HTTP/2, and bytes before its content
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)  # RFC 9113, 3.4
_PROBE = 120.0  # seconds in which a node must say what it is: a cold disk imports torch slowly

_SHARE = Wanted(
    lambda v: is_real(v) and 0 <= v < math.inf and (v <= 1 or float(v).is_integer()),
    "a whole number, or a part of one in [0, 1]",
)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that a study can be done on; `slots` is how many items run on it side by side."""

    id: str
    name: str
    kind: str
    slots: int


def slots_of(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many items of so many CPUs and GPUs fit on a node of these resources at once.

    A part of a GPU is of one GPU: of three, items of 0.4 get two each.
    """
    fits = [_times(resources.get("CPU", 0.0), cpus)] if cpus else []
    if gpus:
        whole_ones = int(resources.get("GPU", 0.0))
        fits.append(whole_ones * _times(1.0, gpus) if gpus < 1 else _times(float(whole_ones), gpus))
    return min(fits)


def _times(total: float, part: float) -> int:
    return int(total / part + 1e-9)  # 1 / 0.1 of a node is ten


class Cluster:
    """A connection to a Ray cluster; use it in a `with` statement, around `Study.run`.

    `nodes` has the nodes of this study's versions that at least one item fits on. `ours` says
    whether the connection was made here, and ends with the block.

    Args:
        address: HOST:PORT of the cluster's head, seen from one of its nodes, or "auto" for the
            one that runs here. None: what RAY_ADDRESS says, else the one that runs here, else a
            new one of this machine's cores, which ends with the block.
        cpus: of an item; it computes with one thread all the same.
        gpus: of an item, in parts of one or whole ones. Above 0, items run on "cuda".
        workers: how many items at once; None: as many as fit.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, it does not let us
            in, or nothing of it fits an item.
        StudyError: a node has other versions than this process, or none says what it has.
    """

    @checked(
        cpus=_SHARE,
        gpus=_SHARE,
        address=Wanted(lambda v: v is None or isinstance(v, str), "HOST:PORT, auto, or None"),
        workers=Wanted(lambda v: v is None or (whole(v) and v >= 1), "a whole number, at least 1"),
    )
    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        workers: int | None = None,
    ) -> None:
        if not cpus and not gpus:
            raise UsageError("an item takes neither a CPU nor a GPU; give cpus, or gpus")
        self.address, self.cpus, self.gpus, self._most = address, cpus, gpus, workers
        self.nodes: tuple[Node, ...] = ()
        self._known: dict[str, Node | None] = {}  # None: it is not used
        self._asked: dict[str, Any] = {}
        self._looked = 0.0
        self.ours = self._entered = False

    def __enter__(self) -> Cluster:
        """Connect, and ask every node what it is."""
        self.ray = _library()
        if not self.ray.is_initialized():
            self._connect()
            self.ours = True
        try:
            self._wait_for_nodes()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.ours:
            self.ray.shutdown()

    @property
    def slots(self) -> int:
        """How many items run at once."""
        return min(sum(node.slots for node in self.nodes), self._most or 10**9)

    @property
    def device(self) -> str:
        """Where items compute."""
        return "cuda" if self.gpus else "cpu"

    def look(self, *, patience: float = 0.0) -> None:
        """Look which nodes there are, where the last look is some seconds ago.

        Args:
            patience: seconds in which nodes that are new may say what they are; those that do
                not are heard by a later look.

        Raises:
            StudyError: the cluster is gone.
        """
        if not patience and time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        alive = self._alive()
        self._ask({id: alive[id] for id in alive if id not in {*self._known, *self._asked}})
        self._hear(alive, patience)
        found = (self._known.get(id) for id in alive)
        self.nodes = tuple(node for node in found if node is not None)

    def ask_for(self, items: int) -> None:
        """Ask a cluster that grows by itself for room for so many items, or for none with 0."""
        bundle = {"CPU": self.cpus, "GPU": self.gpus}
        wanted = [{name: part for name, part in bundle.items() if part}]
        with suppress(Exception):  # where nothing listens, as without an autoscaler
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=wanted * min(items, self._most or items))

    def remote(self, function: Any, **options: Any) -> Any:
        """Return a function as Ray runs it: what an item takes, one thread, and no retry by Ray.

        Ray sets a thread count from the CPUs of a task; here it is one everywhere.
        """
        given = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, **options}
        kept = {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ}
        given["runtime_env"] = {"env_vars": {**kept, **ONE_THREAD}}
        return self.ray.remote(**given)(function)

    def on(self, node: str) -> Any:
        """Return the strategy that runs a task on a node, or not at all where it is gone."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)

    def _connect(self) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or None
        given = "--address" if self.address else "RAY_ADDRESS"
        if address and address.startswith("ray://"):
            raise UsageError(
                f"{given} {address} is of Ray's client; run the study on a node of the cluster, "
                "with --address auto, for example by `ray job submit`"
            )
        if address not in (None, "auto", "local"):
            _reach(address, given)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that starts here
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's, of its own future
            try:
                if address != "local":
                    with suppress(ConnectionError):
                        self.ray.init(address or "auto", **quiet)
                        return
                    if address is not None:
                        raise UsageError(
                            f"no Ray cluster is found at {address}; start one with `ray start "
                            "--head`, give its head as --address HOST:PORT, or leave it out for "
                            "a new one of this machine"
                        )
                cores = machine.physical_cores()
                self.ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            except UsageError:
                raise
            except Exception as error:
                raise UsageError(
                    f"cannot work on the Ray cluster at {address or 'this machine'}: "
                    f"{told(error)}; it takes the same Ray, Python and token "
                    "(RAY_AUTH_TOKEN) here and there"
                ) from error

    def _wait_for_nodes(self) -> None:
        """Look until there is a node that an item fits on; one may be about to join."""
        ends = time.monotonic() + WAIT
        self.look(patience=_PROBE)
        while not self.nodes and time.monotonic() < ends:
            time.sleep(min(1.0, WAIT))
            self.look(patience=_PROBE)
        if not self.nodes and self._asked:
            alive = self._alive()
            silent = [alive[id]["NodeManagerHostname"] for id in self._asked if id in alive]
            taken = "all that an item takes of it may be in use, or " if self.gpus else ""
            raise StudyError(
                f"no node of the Ray cluster has said within {_PROBE:g} s what it is "
                f"({', '.join(silent)}): {taken}it is slow to start a process that imports torch; "
                "look at Ray's logs there, then run the study again"
            )
        if not self.nodes:
            has = [self._resources(node["Resources"]) for node in self._alive().values()]
            raise UsageError(
                f"an item takes {self._resources({'CPU': self.cpus, 'GPU': self.gpus})}, and no "
                f"node of the Ray cluster has that (there are {', '.join(has) or 'no nodes'}); "
                "give less with --cpus and --gpus, or start nodes that have it"
            )

    def _resources(self, has: Mapping[str, float]) -> str:
        gpu = f" and {has.get('GPU', 0):g} GPU" if self.gpus else ""
        return f"{has.get('CPU', 0):g} CPU{gpu}"

    def _alive(self) -> dict[str, dict[str, Any]]:
        try:
            return {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        except Exception as error:
            raise StudyError(
                f"the Ray cluster is gone: {told(error)}; start it, then run the study again: it "
                "goes on where it was"
            ) from error

    def _ask(self, new: Mapping[str, Any]) -> None:
        """Ask nodes that are new what they are."""
        fits = {id: slots_of(node["Resources"], self.cpus, self.gpus) for id, node in new.items()}
        self._known |= {id: None for id, slots in fits.items() if not slots}
        # without a GPU, nothing of the node is taken, so that one that is busy answers too
        asking = self.remote(_facts, **({} if self.gpus else {"num_cpus": 0}))
        for id, slots in fits.items():
            if slots:
                self._asked[id] = asking.options(scheduling_strategy=self.on(id)).remote(
                    self.device
                )

    def _hear(self, alive: Mapping[str, Any], patience: float) -> None:
        """Take in what nodes have said; one that was lost before is asked again."""
        self._asked = {id: answer for id, answer in self._asked.items() if id in alive}
        answers = list(self._asked.values())
        ready, _ = self.ray.wait(answers, num_returns=len(answers), timeout=patience or 0.01)
        for id in [id for id, answer in self._asked.items() if answer in ready]:
            name, resources = alive[id]["NodeManagerHostname"], alive[id]["Resources"]
            try:
                versions, hardware = self.ray.get(self._asked.pop(id))
            except self.ray.exceptions.RayTaskError as error:
                why = f"node {name} of the Ray cluster cannot run secateur: {told(error.cause)}"
                self._refuse(id, f"{why}; install the same there as here")
            except self.ray.exceptions.RayError:  # it has gone again
                continue
            else:
                slots = slots_of(resources, self.cpus, self.gpus)
                self._known[id] = Node(id, name, machine.kind(hardware), slots)
                if other := _others(versions):
                    why = f"node {name} of the Ray cluster has {other}"
                    self._refuse(id, f"{why}; install the same on all nodes")

    def _refuse(self, node: str, why: str) -> None:
        """Refuse a node: an error before anything runs, a warning when it joins later."""
        self._known[node] = None
        if not self._entered:
            raise StudyError(why)
        warnings.warn(f"{why}; it is not used", stacklevel=2)


def _library() -> Any:
    """Return Ray.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "the executor ray needs Ray, which is not installed here (or not whole: "
            f"{told(error)}); pip install ray on every node, or '.[ray]' in a clone of secateur"
        ) from error
    return ray


def _reach(address: str, given: str = "--address") -> None:
    """Refuse an address where no Ray cluster listens; Ray itself tries for minutes.

    Args:
        address: HOST:PORT.
        given: what it was given as.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{given} {address} names no Ray cluster; give HOST:PORT, or auto")
    what = "give HOST:PORT of the head of a Ray cluster that runs: `ray start --head` prints it"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH) as there:
            if _speaks(there) or os.environ.get("RAY_USE_TLS") == "1":
                return
    except (OSError, OverflowError) as error:
        raise UsageError(f"nobody answers at {given} {address} ({told(error)}); {what}") from error
    raise UsageError(f"what answers at {given} {address} is no Ray cluster; {what}")


def _speaks(there: socket.socket) -> bool:
    """Return whether a server speaks HTTP/2, as Ray's do: it begins with its settings."""
    found = b""
    with suppress(OSError):  # it says nothing, or hangs up
        there.sendall(_HELLO)
        while len(found) < _HEADER and (more := there.recv(_HEADER - len(found))):
            found += more
    return found[3:4] == _SETTINGS


def _facts(device: str) -> tuple[dict[str, str], dict[str, object]]:
    """Return the versions of the node that this runs on, and the hardware that items get there."""
    return machine.versions(), machine.describe(machine.device(device))


def _others(versions: Mapping[str, str]) -> str:
    """Return which versions differ from those of this process; nothing where none does."""
    ours = machine.versions()
    return ", ".join(
        f"{name} {versions.get(name, 'none')} and not {ours[name]}, as {platform.node()} has"
        for name in ours
        if versions.get(name) != ours[name]
    )
