"""Every reader of foreign bytes: what it takes, as seeds to begin with, and what it may raise.

tests/fuzz.py draws inputs for them, and tests/test_fuzz_cases.py tries those that once were wrong.
A reader gets bytes; where a hash stands before what is worth drawing, it is made to fit.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import io
import json
import math
import random
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from onnx import numpy_helper
from torch import nn

import fake_cifar10
import onnx_models
import secateur
from secateur import files
from secateur.bench import calibration
from secateur.compiler import artifact, bundle, onnx_reader, passes
from secateur.compiler.targets import Target
from secateur.console import console
from secateur.data import archive, cifar10_forms
from secateur.errors import SecateurError
from secateur.pruning.files import stage_file
from secateur.quantization import inputs
from secateur.study import checking
from secateur.study.samples import packed
from secateur.study.store import read_records, read_spec, spec_hash
from secateur.study.summary import summarise
from secateur.study.tracking.ledger import LEDGER, Ledger
from secateur.terminal.inspection import inspection
from secateur.terminal.verification import verify
from study_records import plan, trials


@dataclass(frozen=True)
class Reader:
    """What reads bytes.

    Attributes:
        read: reads them; whatever it raises but a SecateurError is a fault.
        seeds: returns inputs that it takes.
        json: whether it reads JSON, whose values are then changed, not its bytes alone.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    json: bool = False


VALUES: list[Any] = [
    *(None, True, "", "0", "a[/b]\x1b[2J", "../x", "x" * 300, "\udcff", [], {}, [[]], {"": None}),
    *(0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-320, 1e308, math.nan, math.inf),
]
"""What values of JSON are changed to."""


def changed(content: bytes, draw: random.Random) -> bytes | None:
    """Return JSON with a value of it changed, left out, or put in another's place; None of none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    waiting = [value] if isinstance(value, (dict, list)) else []
    while waiting:
        inner = waiting.pop()
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner))
        places += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys if isinstance(inner[key], (dict, list))]
    if not places:
        return None
    for _ in range(draw.choice([1, 1, 2, 4])):
        inner, key = draw.choice(places)
        other, at = draw.choice(places)
        with contextlib.suppress(LookupError, TypeError):  # of what was changed before
            action = draw.random()
            if action < 0.2:
                del inner[key]
            elif action < 0.4:
                inner[key] = copy.deepcopy(other[at])
            else:
                inner[key] = copy.deepcopy(draw.choice(VALUES))
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(value).encode()
    return None


@cache
def folder() -> Path:
    """Return a folder of this process, in memory where the system has one there."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None, prefix="secateur-fuzz-"))
    return made


def tidy() -> None:
    """Remove what readers have written."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)
        folder.cache_clear()


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def from_bytes(content: bytes) -> object:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return from_bytes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let a reader warn of what it passes over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Files of tensors.


@cache
def _pruned() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.BatchNorm1d(40), nn.Linear(40, 4))
    return secateur.prune(model, 0.3)


def _written(write: Callable[[Path], object]) -> bytes:
    path = folder() / "seed.safetensors"
    path.unlink(missing_ok=True)
    write(path)
    return path.read_bytes()


@cache
def _models() -> list[bytes]:
    model, result = _pruned()
    given = {"masks": result.masks, "budget": result.budget, "architecture": "torch.nn:Linear"}
    return [
        _written(lambda path: secateur.save(model, path)),
        _written(lambda path: secateur.save(model, path, **given, dtype=torch.float16)),
        _written(lambda path: secateur.save(nn.Linear(3, 2), path, provenance={"a": [1.5, None]})),
    ]


def _masks() -> list[bytes]:
    return [_written(_pruned()[1].masks.save)]


def _stages() -> list[bytes]:
    masks = dict(_pruned()[1].masks)
    gates = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    learning = {"number": 3, "square": 0.5, "averaged": 2, "gates": gates}
    states: list[dict[str, Any]] = [
        {"stage": "held", "gates": {}, "masks": masks},
        {"stage": "gates", "gates": learning, "masks": {}},
    ]
    return [_written(lambda path, state=state: stage_file.write(path, state)) for state in states]


def _described(text: bytes) -> object:
    """Read a model whose description is what was drawn, with a hash that fits."""
    content = _models()[1]
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    tensors = safetensors.numpy.load(content)
    notes = header["__metadata__"]
    try:
        notes["description"] = text.decode()
        order = [entry["name"] for entry in json.loads(text)["tensors"] if "tied" not in entry]
    except (ValueError, TypeError, KeyError, RecursionError):
        order = []
    sha = hashlib.sha256(notes["description"].encode())
    for name in order:
        if isinstance(name, str) and name in tensors:
            sha.update(tensors[name].data)
    notes["sha256"] = sha.hexdigest()
    path = folder() / "described.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, notes))
    return secateur.read(path)


def _descriptions() -> list[bytes]:
    content = _models()[1]
    size = int.from_bytes(content[:8], "little")
    return [json.loads(content[8 : 8 + size])["__metadata__"]["description"].encode()]


def _seen(path: Path) -> object:
    console().render_lines(inspection(path))
    return verify(path)


# Folders.


def _hub(content: bytes) -> object:
    place = folder() / "hub"
    if not place.exists():
        torch.manual_seed(0)
        secateur.save_pretrained(nn.Linear(8, 4), place)
    (place / "config.json").write_bytes(content)
    verify(place)
    return secateur.from_pretrained(place, nn.Linear(8, 4))


def _configs() -> list[bytes]:
    place = folder() / "configs"
    torch.manual_seed(0)
    secateur.save_pretrained(nn.Linear(8, 4), place, config={"a": {"b": [1, None]}})
    return [(place / "config.json").read_bytes(), b'{"hidden_size": 8}']


@cache
def _target() -> Target:
    return Target("x", "linux", "x86_64", 16, 32, features=("avx2",))


def _network() -> dict[str, Any]:
    port = {"name": "x", "dtype": "float32", "shape": [3, 4]}
    network = {"name": "n", "secateur": "0.1.0", "batched": True, "batches": [1], "merged": []}
    return {**network, "inputs": [port], "outputs": [port]}


def _bundle(content: bytes) -> object:
    place = folder() / "c"
    if not place.exists():
        _manifests()
    (place / bundle.MANIFEST).write_bytes(content)
    return list(bundle.check(place))


def _manifests() -> list[bytes]:
    place = folder() / "c"
    shutil.rmtree(place, ignore_errors=True)
    bundle.write_bundle(place, {"model.c": "int x;\n"}, bytes(32), _network(), _target())
    return [(place / bundle.MANIFEST).read_bytes()]


# Engines.


def _engine_of(text: bytes) -> object:
    """Read an engine whose description is what was drawn, with a checksum that fits."""
    body = bytes(100) + text
    lengths = struct.pack("<QQ", 100, len(text))
    tail = lengths + hashlib.sha256(body + lengths).digest() + artifact.MAGIC
    path = folder() / "described.so"
    path.write_bytes(body + tail)
    artifact.is_engine(path)
    info = artifact.read(path)
    return artifact.check(info)


def _engine_texts() -> list[bytes]:
    content = artifact.pack(b"", _target(), _network())
    return [content[: content.rindex(b"}") + 1]]


# Studies.


@cache
def _spec() -> dict[str, Any]:
    return dict(plan())


def _study() -> Path:
    place = folder() / "study"
    if not place.exists():
        (place / "records").mkdir(parents=True)
        (place / "spec.json").write_text(json.dumps(_spec()))
        for number, text in enumerate(_record_texts()):
            record = json.loads(text)
            content = {**record, "sha256": spec_hash(record)}
            (place / "records" / f"{number}.json").write_text(json.dumps(content))
    return place


def _record(content: bytes) -> object:
    """Sum up a study with a record of what was drawn, with a hash that fits."""
    try:
        record = files.parse_json(content)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    record |= {"spec": spec_hash(_spec())}
    name = "x"
    if isinstance(record.get("trial"), dict):
        with contextlib.suppress(Exception):
            from secateur.study.plan import Trial

            name = Trial(**record["trial"]).id[:200].replace("/", "")
    place = folder() / "record"
    shutil.rmtree(place, ignore_errors=True)
    (place / "records").mkdir(parents=True)
    (place / "spec.json").write_text(json.dumps(_spec()))
    path = place / "records" / f"{name}.json"
    try:
        path.write_text(json.dumps({**record, "sha256": spec_hash(record)}))
    except (OSError, ValueError):
        return None
    with _quiet():
        list(checking.check(place))
        found, _ = read_records(place, spec_hash(_spec()))
        return summarise(_spec(), found)


def _record_texts() -> list[bytes]:
    found = trials(_spec())
    scores = {"count": 4, "values": packed(np.array([0, 100, 100, 0], np.float32))}
    more = {"scores": scores, "classes": [1.0, None], "calibration_error": 1.5}
    stage = {
        "stage": "start", "seed": 0, "checkpoint": "0" * 64, "log": [{"epoch": 1, "loss": 0.5}],
        "keep": 1.0, "excluded": {"a": "b"}, "gates": {"w": {"edges": [0.0], "counts": [1]}},
    }  # fmt: skip
    some = [found[0], {**found[-1], **more}, stage]
    return [json.dumps({"spec": spec_hash(_spec()), **record}).encode() for record in some]


def _spec_file(content: bytes) -> object:
    place = folder() / "spec"
    place.mkdir(exist_ok=True)
    (place / "spec.json").write_bytes(content)
    list(checking.check(place))
    spec = read_spec(place)
    return summarise(spec, ()), inspection(place)


def _sums(content: bytes) -> object:
    (_study() / "SHA256SUMS").write_bytes(content)
    with _quiet():
        return list(checking.check(_study()))


def _sum_lists() -> list[bytes]:
    names = ["spec.json", "records/0.json", "checkpoints/x.safetensors", "report.html"]
    return ["".join(f"{'0' * 64}  {name}\n" for name in names).encode()]


def _ledger(path: Path) -> object:
    return Ledger(path.parent).before("a")


# Data.


def _batch(ending: str) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        name = fake_cifar10.NAMES[0]
        labels = {"train_lables.json": json.dumps([1] * 20).encode()}
        given = {f"{name}{ending}": content, **labels}
        return cifar10_forms.decode(given, {name: "0" * 64}, fake_cifar10.RECORDS, "here")

    return read


def _pickles() -> list[bytes]:
    return [fake_cifar10.pickled_files()[fake_cifar10.NAMES[0]]]


def _sheets() -> list[bytes]:
    return [fake_cifar10.sheet_files()[f"{fake_cifar10.NAMES[0]}.png"]]


def _archive(tar: bytes) -> object:
    """Read an archive that holds what was drawn: the compression around it would hide it."""
    path = folder() / "x.tar.gz"
    path.write_bytes(gzip.compress(tar, 1))
    return archive.read_archive(path, frozenset({"data_batch_1"}))


def _archives() -> list[bytes]:
    return [gzip.decompress(fake_cifar10.archive({"data_batch_1": b"abc", "b": b"x" * 600}))]


def _arrays() -> list[bytes]:
    array, named = io.BytesIO(), io.BytesIO()
    np.save(array, np.arange(6, dtype=np.float32).reshape(2, 3))
    np.savez(named, x=np.zeros(3), y=np.ones((2, 2), np.int8))
    return [array.getvalue(), named.getvalue()]


def _array(path: Path) -> object:
    calibration.read(path)
    return inputs.read_data(path)


def _onnx(content: bytes) -> object:
    with np.errstate(all="ignore"):
        return passes.apply(onnx_reader.read(content).graph)


def _networks() -> list[bytes]:
    true = numpy_helper.from_array(np.array(True))
    branches = onnx_models.if_model([onnx_models.node("Constant", "", "c", value=true)])
    return [proto.SerializeToString() for proto in (onnx_models.linear(), branches)]


READERS: dict[str, Reader] = {
    "model": Reader(_in_file("x.safetensors", secateur.read), _models),
    "description": Reader(_described, _descriptions, json=True),
    "masks": Reader(_in_file("x.safetensors", secateur.Masks.load), _masks),
    "stage": Reader(_in_file("x.safetensors", stage_file.read), _stages),
    "inspect": Reader(
        _in_file("x.safetensors", _seen), lambda: [*_models(), *_masks(), *_stages()]
    ),
    "hub": Reader(_hub, _configs, json=True),
    "bundle": Reader(_bundle, _manifests, json=True),
    "engine": Reader(
        _in_file("x.so", artifact.read), lambda: [artifact.pack(b"code", _target(), _network())]
    ),
    "engine-text": Reader(_engine_of, _engine_texts, json=True),
    "record": Reader(_record, _record_texts, json=True),
    "spec": Reader(_spec_file, lambda: [json.dumps(_spec()).encode()], json=True),
    "sums": Reader(_sums, _sum_lists),
    "ledger": Reader(
        _in_file(LEDGER, _ledger), lambda: [b'{"tracker": "a", "run": "b"}\n{"logged": "c"}\n']
    ),
    "pickle": Reader(_batch(""), _pickles),
    "sheet": Reader(_batch(".png"), _sheets),
    "archive": Reader(_archive, _archives),
    "array": Reader(_in_file("x.npy", _array), _arrays),
    "onnx": Reader(_onnx, _networks),
}
"""By the names that `python tests/fuzz.py NAME` takes."""


def tried(name: str, content: bytes) -> bool:
    """Let a reader read; return whether it took it, and raise whatever is a fault."""
    reader = READERS[name]
    try:
        reader.read(content)
    except SecateurError:
        return False
    return True
