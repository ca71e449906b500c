"""The groups of a study that is done by several: what is done, what may begin, what failed."""

from __future__ import annotations

from collections.abc import Sequence, Set

from secateur.study.plan import Event, Group, Item, Observer, epochs
from secateur.study.spec import Spec
from secateur.study.store import Record, Store


class Side:
    """The groups that are done, under way and to come, and what became of them.

    `ended` and `begun` have their places in the plan. `failed` has the items that could not be
    done, or are left out because of such, and `failures` why, a line for each.
    """

    def __init__(
        self, spec: Spec, store: Store, observe: Observer, planned: Sequence[Group]
    ) -> None:
        self.store, self.observe, self.planned = store, observe, planned
        self.failed: set[Item] = set()
        self.failures: list[str] = []
        self.ended: set[int] = set()
        self.begun: set[int] = set()
        options = spec.options
        self._owner = {item: at for at, group in enumerate(planned) for item in group.items}
        costs = [sum(epochs(options, item) for item in group.items) for group in planned]
        self._left = list(costs)  # of a group and the dearest row of groups that wait for it
        for at in reversed(range(len(planned))):
            for stage in planned[at].after:
                before = self._owner[stage]
                self._left[before] = max(self._left[before], costs[before] + self._left[at])

    def leave(self, places: Set[int]) -> None:
        """Leave groups out, as if they had ended; no other one comes after them."""
        self.begun |= places
        self.ended |= places

    def look(self) -> dict[Item, Record]:
        """Find the groups of which everything is done already; return all records there are."""
        found: dict[Item, Record] = {}
        for at, group in enumerate(self.planned):
            if at in self.ended:
                continue
            records = {item: self.store.read(item) for item in group.items}
            found |= {item: record for item, record in records.items() if record is not None}
            if None not in records.values():
                self.ended.add(at)
                self.begun.add(at)
                for item, record in records.items():
                    self.observe(Event("found", item, record))
        return found

    def over(self) -> bool:
        """Whether every group has ended."""
        return len(self.ended) == len(self.planned)

    def ready(self) -> list[int]:
        """Return the groups that may begin, first those that most depends on."""
        may = [
            at
            for at, group in enumerate(self.planned)
            if at not in self.begun
            and all(self._owner[stage] in self.ended for stage in group.after)
        ]
        return sorted(may, key=lambda at: (-self._left[at], at))

    def fail(self, item: Item, error: Exception) -> None:
        """Record that an item could not be done, and tell of it."""
        self.failures.append(self.store.write_failure(item, error))
        self.failed.add(item)
        self.observe(Event("failed", item))

    def first_left(self, at: int) -> Item | None:
        """Return the first item of a group that is neither done nor failed."""
        left = (item for item in self.planned[at].items if item not in self.failed)
        return next((item for item in left if self.store.read(item) is None), None)
