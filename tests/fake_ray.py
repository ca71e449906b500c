"""Ray, as far as studies use it, in this process: nodes that are names, and work that is done now.

It does one group after the other, whole, and hands its messages out one by one, so that a test
says at which of them a worker or a node is lost: what was done after it never arrives.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class Ref:
    """A reference to a value, or to the error that getting it raises."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        raise TypeError("a reference is not copied by hand")


class Stream:
    """What a generator task says, heard one by one."""

    def __init__(self, fake: FakeRay, node: str, made: Iterator[list[Any]]) -> None:
        self.node, self.fake, self._made = node, fake, made
        self._said: list[Any] | None = None
        self._over = False

    def __next__(self) -> Ref:
        if self._said is None:  # all of it now: threads of one process share random numbers
            self._said = [[message] for batch in self._made for message in batch]
        if self._over or not self._said:
            raise StopIteration
        if self.node not in self.fake.alive:
            self._over = True
            return Ref(NodeDiedError("the node is gone"))
        messages = self._said.pop(0)
        try:
            self.fake.listen(self.node, messages[0])
        except RayError as error:
            self._over = True
            return Ref(error)
        return Ref(messages)


class Remote:
    def __init__(self, fake: FakeRay, function: Callable[..., Any], given: dict[str, Any]) -> None:
        self._fake, self._function, self.given = fake, function, given

    def options(self, scheduling_strategy: str) -> Remote:
        return Remote(self._fake, self._function, {**self.given, "node": scheduling_strategy})

    def remote(self, *arguments: Any) -> Any:
        node, fake = self.given["node"], self._fake
        plain = [each.value if isinstance(each, Ref) else each for each in arguments]
        fake.asked.append((self._function.__name__, node, plain))
        if inspect.isgeneratorfunction(self._function):
            return Stream(fake, node, self._function(*plain))
        if self._function.__name__ == "_facts" and node in fake.facts:
            return Ref(fake.facts[node])
        return Ref(self._function(*plain))


class FakeRay(types.ModuleType):
    """The module: `nodes` may lose some, `listen` may raise at a message, `facts` may differ."""

    def __init__(self, **nodes: float) -> None:
        super().__init__("ray")
        self.cpus, self.alive = nodes, set(nodes)
        self.facts: dict[str, Any] = {}
        self.asked: list[tuple[str, str, list[Any]]] = []
        self.listen: Callable[[str, dict[str, Any]], None] = lambda node, message: None
        self.exceptions = types.ModuleType("ray.exceptions")
        for error in (RayError, RayTaskError, WorkerCrashedError, OutOfMemoryError, NodeDiedError):
            setattr(self.exceptions, error.__name__, error)
        self.puts = 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": name,
                "Alive": name in self.alive,
                "Resources": {"CPU": cpus},
                "NodeManagerHostname": name,
            }
            for name, cpus in self.cpus.items()
        ]

    def put(self, value: Any) -> Ref:
        self.puts += 1
        return Ref(value)

    def get(self, ref: Ref, timeout: float | None = None) -> Any:
        if isinstance(ref.value, Exception):
            raise ref.value
        return ref.value

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], Any]:
        return refs[:num_returns], refs[num_returns:]

    def remote(self, **given: Any) -> Callable[..., Remote]:
        return lambda function: Remote(self, function, given)

    def cancel(self, stream: Stream, force: bool) -> None:
        stream._over = True


def installed(monkeypatch: pytest.MonkeyPatch, **nodes: float) -> FakeRay:
    """Put a Ray with nodes of so many CPUs where `import ray` finds it."""
    fake = FakeRay(**nodes)
    strategies = types.ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = (  # type: ignore[attr-defined]
        lambda node_id, soft: node_id
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", fake.exceptions)
    monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return fake
