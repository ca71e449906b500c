"""Fetch one file over HTTP: resumed where it was cut off, believed only when its MD5 is right."""

import hashlib
import http.client
import queue
import sys
import threading
from pathlib import Path
from typing import cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from secateur.console import Words, console
from secateur.errors import DataError, printable

TRIES = 5
"""How often a transfer that is cut off is taken up again before it is given up."""

_CHUNK = 1 << 18


def download(url: str, target: Path, md5: str, *, progress: bool, timeout: float = 8.0) -> None:
    """Fetch `url` into `target`, whose MD5 must be `md5` (hex).

    What has arrived stands in `<target>.part`, also after a failure: the next call asks the
    server for the rest only, or starts again where the server cannot do that. `timeout`, in
    seconds, bounds the wait for the first answer and every later silence. `progress` shows a bar
    on standard error, or one line where that is no terminal. Raises DataError when the server
    cannot be reached, answers with an error, keeps cutting off, or sends another file.
    """
    part = target.with_name(f"{target.name}.part")
    if progress and not sys.stderr.isatty():
        announce(f"fetching {url}")
    while True:
        resumed = part.exists()
        try:
            _complete(url, part, progress, timeout)
            found = _md5(part)
            if found == md5:
                part.replace(target)
                return
            part.unlink()
        except OSError as error:
            raise DataError(f"{part} cannot be written: {error}") from error
        if not resumed:  # else the first piece was of another file: once more, from the start
            raise DataError(f"{url} is not the file expected: its MD5 is {found}, not {md5}")


def announce(text: str) -> None:
    """Print one line of plain text on standard error."""
    console(stderr=True).print(Words(text), soft_wrap=True)


def _complete(url: str, part: Path, progress: bool, timeout: float) -> None:
    """Fetch what `part` lacks. OSError stands for the disk, DataError for the network."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = progress and sys.stderr.isatty()
    with Progress(*columns, console=console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(printable(url.rsplit("/", 1)[-1]), total=None)
        for _ in range(TRIES):
            have = part.stat().st_size if part.exists() else 0
            try:
                response = _open(url, have, timeout)
            except HTTPError as error:
                error.close()
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                    return  # there is no more to be had; the MD5 tells whether that is all
                raise DataError(f"{url} answered {error.code} {error.reason}") from error
            except (OSError, http.client.HTTPException) as error:
                raise DataError(f"{url} cannot be reached: {_reason(error)}") from error
            with response:
                start = have if _continues(response, have) else 0
                length = response.length  # None where the server does not tell
                bar.update(task, total=None if length is None else start + length)
                received, cause = _receive(response, part, start, bar, task)
            if cause is None and (length is None or received == length):
                return
            if not received:
                raise DataError(f"{url} sends nothing: {cause or 'the connection was closed'}")
    raise DataError(
        f"{url} was cut off {TRIES} times ({cause or 'the connection was closed'}); "
        f"{part} keeps what came, and the next run goes on from there"
    )


def _receive(
    response: http.client.HTTPResponse, part: Path, start: int, bar: Progress, task: TaskID
) -> tuple[int, str | None]:
    """Write the body to `part` from byte `start` on; return its bytes and what cut it off."""
    received = 0
    with part.open("ab" if start else "wb") as file:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return received, _reason(error)
            if not chunk:
                return received, None
            file.write(chunk)
            received += len(chunk)
            bar.update(task, completed=start + received)


def _open(url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    """Send the request and wait at most `timeout` for the answer's head.

    On a thread of its own: urllib bounds each step alone, and looking up a name not at all.
    """
    headers = {"User-Agent": "secateur", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = Request(url, headers=headers)
    answer: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(cast(http.client.HTTPResponse, urlopen(request, timeout=timeout)))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        result = answer.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    """Tell whether the body goes on at byte `have` of the file, instead of beginning it."""
    given = response.headers.get("Content-Range", "")
    return response.status == http.client.PARTIAL_CONTENT and given.startswith(f"bytes {have}-")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    return str(cause) or type(cause).__name__


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
