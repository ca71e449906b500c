"""Whole channels, neurons and heads: layers hang together, and the network becomes smaller."""

from __future__ import annotations

from secateur.pruning.selecting.patterns.pattern import Pattern


class Channel(Pattern):
    """Whole channels; `secateur.pruning.channels` finds which layers share them."""

    __slots__ = ()
    FORM = "'channel'"
    EXAMPLES = ("channel",)
    unit = "channels"
    smaller = True

    @classmethod
    def parse(cls, text: str) -> Channel | None:
        """As `Pattern.parse`."""
        return cls(text) if text == "channel" else None

    @property
    def refusal(self) -> str:
        """As `Pattern.refusal`."""
        return (
            "channels span several layers, so scores of weights alone cannot be cut by them; use "
            'secateur.prune(..., pattern="channel")'
        )
