"""One reader and one writer of files: atomic, bounded, checked, and safe from strangers' files.

Values only: neither torch nor any other part of secateur than its errors is imported here.
"""

from secateur.files.arrays import read_arrays
from secateur.files.documents import (
    LARGEST_JSON,
    Size,
    parse_json,
    read_json,
    to_json,
    validated,
)
from secateur.files.findings import Finding, compared, unread
from secateur.files.reading import refusing, sha256_of
from secateur.files.tensors import (
    MASKS,
    MODEL,
    STAGE,
    Tensors,
    content_of,
    format_of,
    metadata_of,
    open_tensors,
    refuse_pickle,
)
from secateur.files.writing import ABANDONED, TEMPORARY, refuse_loss, sweep, write

__all__ = [
    "ABANDONED",
    "LARGEST_JSON",
    "MASKS",
    "MODEL",
    "STAGE",
    "TEMPORARY",
    "Finding",
    "Size",
    "Tensors",
    "compared",
    "content_of",
    "format_of",
    "metadata_of",
    "open_tensors",
    "parse_json",
    "read_arrays",
    "read_json",
    "refuse_loss",
    "refuse_pickle",
    "refusing",
    "sha256_of",
    "sweep",
    "to_json",
    "unread",
    "validated",
    "write",
]
