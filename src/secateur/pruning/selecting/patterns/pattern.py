"""What a pattern is: how the weights of a tensor hang together when they are kept or cut."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import BudgetError
from secateur.pruning.selecting.ranking import Scores


class Pattern(str):
    """A pattern is its name, such as "2:4", and knows what that means.

    It is stored, reported and compared as that text. A subclass ranks units (`units`,
    `scores`, `mask`), or marks every tensor by itself (`ratio`, `mark`, `due`), or is refused by
    selection (`refusal`).
    """

    __slots__ = ()

    FORM: ClassVar[str]
    """How it is written, for help texts and errors, such as "'n:m', such as '2:4'"."""

    EXAMPLES: ClassVar[tuple[str, ...]]
    """Some patterns of the kind, which the tests of all patterns try."""

    unit: ClassVar[str] = "weights"
    """What is ranked, kept and counted."""

    directed: ClassVar[bool] = False
    """Whether it goes along the inputs, so that their dimension must be known."""

    together: ClassVar[int] = 0
    """How many consecutive inputs share a score at each place, so that the order of channels
    matters (see `secateur.reorder`); 0 where it does not, or is not for channels to choose."""

    smaller: ClassVar[bool] = False
    """Whether what is cut leaves the network, which then becomes a smaller one."""

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """Return the pattern that a text names; None if it names none of this kind.

        Raises:
            BudgetError: it is of this kind, but impossible; says why.
        """
        raise NotImplementedError

    @property
    def ratio(self) -> float | None:
        """The keep ratio that the pattern says itself; None where it takes any."""
        return None

    @property
    def refusal(self) -> str | None:
        """Why scores of weights cannot be cut by it, and what to do; None where they can."""
        return None

    def units(self, shape: torch.Size, axis: int) -> int:
        """Return how many units a tensor has, where units are ranked.

        Args:
            shape: of the tensor; of two dimensions at least where `directed`.
            axis: the dimension that counts inputs, as `Prunable.axes`.
        """
        raise NotImplementedError

    def scores(self, scores: Scores, axis: int, chunk: int) -> Scores:
        """Return one score for each unit of a tensor, in the tensor's order.

        Args:
            scores: of the tensor's weights; of two dimensions at least where `directed`.
            axis: as in `units`.
            chunk: about how many scores are copied together.

        Returns:
            The scores themselves, or a float tensor of any shape on their device; not finite where
            a score is not, or where a sum overflows.
        """
        raise NotImplementedError

    def mask(self, kept: Tensor, like: Tensor, axis: int, chunk: int) -> Tensor:
        """Return the mask of a tensor whose units are kept or cut.

        Args:
            kept: bool, in the shape of `scores`.
            like: the tensor, or its scores.
            axis: as in `scores`.
            chunk: as in `scores`.

        Returns:
            bool, in the shape, memory format and on the device of `like`.
        """
        raise NotImplementedError

    def mark(self, mask: Tensor, scores: Scores, axis: int, chunk: int) -> Tensor:
        """Write the mask of one tensor, where the pattern says its `ratio` itself.

        Args:
            mask: bool, in the scores' shape and on their device; all of it is written.
            scores: of the tensor's weights.
            axis: as in `scores`.
            chunk: about how many scores are looked at together, at some 30 bytes each.

        Returns:
            Whether all scores are finite, a bool scalar on their device; where they are not, the
            mask means nothing.
        """
        raise NotImplementedError

    def due(self, shape: torch.Size, axis: int) -> int:
        """Return how many weights of a tensor `mark` keeps."""
        raise NotImplementedError


def impossible(form: str, text: str, why: str) -> BudgetError:
    """Return the error for a text that is of a pattern's kind, but cannot be met."""
    return BudgetError(f"pattern is {text!r}, {why}; it must be {form}")
