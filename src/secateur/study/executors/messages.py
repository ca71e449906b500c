"""What the processes of a study say to each other: one JSON object a line, no pickles."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from secateur.study.plan import Event, Item, Stage, Trial
from secateur.training import Epoch


def packed(item: Item) -> list[Any]:
    """Return an item as JSON values."""
    if isinstance(item, Stage):
        return ["stage", item.seed, item.name, item.keep]
    return ["trial", item.seed, item.criterion, item.keep, item.recovery]


def unpacked(values: list[Any]) -> Item:
    """Return the item of `packed`."""
    kind, *fields = values
    return Stage(*fields) if kind == "stage" else Trial(*fields)


def event_of(message: dict[str, Any]) -> Event:
    """Return the event of `of_event`."""
    epoch = message.get("epoch")
    return Event(
        message["event"],
        unpacked(message["item"]),
        message.get("record"),
        None if epoch is None else Epoch(**epoch),
    )


def of_event(event: Event) -> dict[str, Any]:
    """Return an event as JSON values."""
    return {
        "event": event.kind,
        "item": packed(event.item),
        "record": event.record,
        "epoch": None if event.epoch is None else asdict(event.epoch),
    }


def line(message: dict[str, Any]) -> bytes:
    """Return a message as one line; a number that is not finite is a null."""
    try:
        text = json.dumps(message, allow_nan=False)
    except ValueError:
        text = json.dumps({**message, "epoch": None, "record": None}, allow_nan=False)
    return text.encode() + b"\n"
