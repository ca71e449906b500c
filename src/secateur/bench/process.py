"""An engine's process, as seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from secateur.errors import CompileError
from secateur.files import parse_json

_LONGEST = 64 << 20  # characters of an answer
SCRIPT = Path(__file__).with_name("worker.py")


class Process:
    """A running worker.py; a context manager that ends it.

    Args:
        engine: its name, for messages.
        python: the interpreter that has the engine.
        threads: for the libraries that read it from the environment.
    """

    def __init__(self, engine: str, python: Path, threads: int) -> None:
        self.engine = engine
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed on exit)
        own = python == Path(sys.executable)
        variables = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
        )
        self._process = subprocess.Popen(
            # -P and -I: worker.py's neighbours are not to be found as top-level modules; and
            # another environment is not to see this one's PYTHONPATH.
            [str(python), "-P" if own else "-I", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env={**os.environ, **variables},
        )

    @property
    def number(self) -> int:
        """The system's number of it."""
        return self._process.pid

    def ask(self, what: str, *, limit: float = 600, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a request; see worker.py for both.

        Raises:
            CompileError: the engine refused, died, or took more than `limit` seconds.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            line = self._process.stdout.readline(_LONGEST)
            answer = (
                parse_json(line)
                if line
                else {
                    "error": f"did not answer in {limit:g} s"
                    if late.is_set()
                    else self._last_words()
                }
            )
            if not isinstance(answer, dict):
                answer = {"error": "it answers something else"}
        except (BrokenPipeError, ValueError):
            answer = {"error": self._last_words()}
        finally:
            timer.cancel()
        if "error" in answer:
            raise CompileError(f"{self.engine} cannot {what} the network: {answer['error']}")
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()[-600:]
        return f"its process ended with status {code}; {said or 'it said nothing'}"
