"""Fuzz every reader of foreign bytes, led by the coverage of secateur's own code.

    python tests/fuzz.py --seconds 60             # each reader for a minute; what is found is kept
    python tests/fuzz.py --seconds 600 model onnx
    python tests/fuzz.py --runs 100000            # so many inputs for each, however long that takes

It says what each reader was given: inputs, the longest time that one took, and how much memory
reading came to. It takes atheris (`pip install 'secateur[fuzz]'`). An input that is a fault goes to
tests/data/fuzz/READER, where tests/test_fuzz_cases.py finds it; the command then ends with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import io
import os
import random
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
FOUND = HERE / "data" / "fuzz"
LONGEST = 1 << 16  # bytes of an input
SLOW, MEMORY = 10, 1024  # seconds that an input may take, and MiB that reading may come to
SAME = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}  # so that a run can be done again
LAST = 4000  # letters of what is said of a fault
BEGUN = "fuzzing begins with MiB: "  # in memory: torch, and what else is imported


def fuzz(name: str, corpus: Path, limit: str, slow: int, faults: Path) -> tuple[int, str]:
    """Fuzz a reader in a copy of this process, which its first fault ends.

    This process has imported all that readers take; that needs seconds, the more as it is
    instrumented.

    Returns:
        Its exit code, and what it said.
    """
    arguments = [str(corpus), limit]
    arguments += [f"-max_len={LONGEST}", f"-timeout={slow}", f"-report_slow_units={slow}"]
    arguments += [f"-artifact_prefix={faults}{os.sep}", "-print_final_stats=1", "-verbosity=0"]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        sys.stdout.flush()
        if not (pid := os.fork()):
            os.dup2(said.fileno(), 2)
            one(name, arguments)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read()


def told(name: str, said: str) -> str:
    """Return a line on what a reader was given, by the figures that libFuzzer ends with."""
    found = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", said, re.MULTILINE))
    begun = re.search(rf"^{BEGUN}(\d+)$", said, re.MULTILINE)
    grown = int(found.get("peak_rss_mb", 0)) - int(begun[1]) if begun else 0
    return (
        f"{name:<12} {int(found.get('number_of_executed_units', 0)):>9,} inputs, the slowest "
        f"{found.get('slowest_unit_time_sec', '?')} s, {max(grown, 0):,} MiB of memory"
    )


def in_memory() -> int:
    """Return how many MiB this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def one(name: str, arguments: list[str]) -> NoReturn:
    """Fuzz a reader in this process until its time is over, and end with it."""
    import atheris

    import fuzz_json
    import fuzz_readers

    def attempt(content: bytes) -> None:
        fuzz_readers.tried(name, content)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        made = fuzz_json.changed(content, draw) if draw.random() < 0.8 else None
        if made is None or len(made) > most:
            return bytes(atheris.Mutate(content, most))
        return made

    # At its end what libraries had threads for would wait for those, which a copy does not have.
    libc = ctypes.CDLL(None)
    libc.__cxa_atexit(libc._exit, None, None)
    try:
        for seed in fuzz_readers.READERS[name].seeds():
            attempt(seed)
        print(f"{BEGUN}{in_memory()}", file=sys.stderr)
        arguments = [*arguments, f"-rss_limit_mb={in_memory() + MEMORY}"]
        more = {"custom_mutator": mutate} if fuzz_readers.READERS[name].json else {}
        atheris.Setup([sys.argv[0], *arguments], attempt, **more)
        atheris.Fuzz()  # which ends the process
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def main() -> int:
    """Fuzz the readers that are named, or all; return the exit code."""
    if os.environ | SAME != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SAME)
    import atheris

    quiet = contextlib.redirect_stderr(io.StringIO())  # it has a line for each module
    with quiet, atheris.instrument_imports(include=["secateur"]):
        import fuzz_readers
        from fuzz_reader import folder, tidy

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--runs", type=int, help="inputs for each reader, in place of seconds")
    parser.add_argument("--slow", type=int, default=SLOW, help="seconds that an input may take")
    parser.add_argument("readers", nargs="*", help=", ".join(fuzz_readers.READERS))
    given = parser.parse_args()
    limit = f"-runs={given.runs}" if given.runs else f"-max_total_time={given.seconds}"
    wrong = []
    folder()  # the one of every copy of this process
    for name in given.readers or fuzz_readers.READERS:
        with tempfile.TemporaryDirectory(prefix="secateur-corpus-") as place:
            corpus, faults = Path(place) / "corpus", Path(place) / "faults"
            corpus.mkdir()
            faults.mkdir()
            cases = [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]
            for number, seed in enumerate([*fuzz_readers.READERS[name].seeds(), *cases]):
                (corpus / str(number)).write_bytes(seed)
            code, said = fuzz(name, corpus, limit, given.slow, faults)
            print(told(name, said), flush=True)
            for fault in faults.iterdir():
                content = fault.read_bytes()
                (FOUND / name).mkdir(parents=True, exist_ok=True)
                kept = FOUND / name / hashlib.sha256(content).hexdigest()[:12]
                kept.write_bytes(content)
                print(f"{name}: a fault, kept as {kept}", flush=True)
            if code:
                print(said[-LAST:])
                wrong.append(name)
    tidy()
    print(f"faults in: {', '.join(wrong)}" if wrong else "no fault")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
