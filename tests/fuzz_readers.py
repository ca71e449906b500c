"""Every reader of foreign bytes: what it takes, as seeds to begin with, and what it may raise.

tests/fuzz.py draws inputs for them, and tests/test_fuzz_cases.py tries those that once were wrong.
A reader gets bytes; where a hash stands before what is worth drawing, it is made to fit.
"""

from __future__ import annotations

import fuzz_artifacts
import fuzz_data
import fuzz_studies
import fuzz_tensors
from fuzz_reader import Reader
from secateur.errors import SecateurError

READERS: dict[str, Reader] = (
    fuzz_tensors.READERS | fuzz_artifacts.READERS | fuzz_studies.READERS | fuzz_data.READERS
)
"""By the names that `python tests/fuzz.py NAME` takes."""


def tried(name: str, content: bytes) -> bool:
    """Let a reader read; return whether it took it, and raise whatever is a fault."""
    reader = READERS[name]
    try:
        reader.read(content)
    except SecateurError:
        return False
    return True
