"""Files of a study that carry the hash of their own content: read, and found to be whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur import files
from secateur.study.plan import Item, Stage, Trial
from secateur.study.schema import Failure, StageRecord, TrialRecord

Record = dict[str, Any]


def read_hashed(path: Path, *, must: bool = True) -> Record:
    """Return what a file says that carries the SHA-256 of its own content, without that.

    Args:
        path: of the file.
        must: whether a file without a hash is refused.

    Raises:
        OSError, ValueError: it cannot be read, or its hash does not match.
    """
    content = files.read_json(path)
    found = content.pop("sha256", None)
    if found != digest(content) and (must or found is not None):
        raise ValueError("its content does not match its own hash")
    return content


def read_record(path: Path, spec: str, item: Item | None = None) -> Record:
    """Return a record that is whole, and that of a spec, and of an item or of whom its name says.

    Raises:
        OSError, ValueError: it is not; says how.
    """
    content = read_hashed(path)
    if content.get("spec") != spec:
        raise ValueError("it belongs to another spec")
    if "trial" in content:
        trial = files.validated(content, TrialRecord).trial
        whose: Item = Trial(trial.seed, trial.criterion, trial.keep, trial.recovery)
    else:
        stage = files.validated(content, StageRecord)
        whose = Stage(stage.seed, stage.stage, stage.keep)
    if whose != item if item else whose.id != path.stem:
        raise ValueError(f"it is the record of {whose.id[:120]!a}")
    return content


def read_failure(path: Path, spec: str) -> Record:
    """Return what is kept of an item that could not be done; of earlier versions, without a hash.

    Raises:
        OSError, ValueError: it is damaged, or of another spec or item.
    """
    content = read_hashed(path, must=False)
    failure = files.validated(content, Failure)
    if (failure.spec, failure.failed) != (spec, path.stem):
        raise ValueError("it belongs to another study or item")
    return content


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, in hex, however it is written."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
