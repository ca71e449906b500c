"""Fuzz every reader of foreign bytes, led by the coverage of secateur's own code.

    python tests/fuzz.py --seconds 60             # each reader for a minute; what is found is kept
    python tests/fuzz.py --seconds 600 model onnx

It takes atheris (`pip install 'secateur[fuzz]'`). An input that is a fault goes to
tests/data/fuzz/READER, where tests/test_fuzz_cases.py finds it; the command then ends with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE / "data" / "fuzz"
LONGEST = 1 << 16  # bytes of an input
SLOW, MEMORY = 10, 4096  # seconds and MiB that one input may take


def fuzz(name: str, corpus: Path, seconds: int, faults: Path) -> int:
    """Fuzz a reader in a process of its own, which its first fault ends; return its exit code."""
    command = [sys.executable, __file__, "--one", name, str(corpus), f"-max_total_time={seconds}"]
    command += [f"-max_len={LONGEST}", f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}"]
    command += [f"-artifact_prefix={faults}{os.sep}", "-print_final_stats=1", "-verbosity=0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(command, check=False, env=environment, cwd=HERE).returncode


def one(name: str, arguments: list[str]) -> None:
    """Fuzz a reader in this process until its time is over."""
    import atheris

    with atheris.instrument_imports(include=["secateur"]):
        import fuzz_readers

    def attempt(content: bytes) -> None:
        fuzz_readers.tried(name, content)

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        made = fuzz_readers.changed(content, draw) if draw.random() < 0.8 else None
        if made is None or len(made) > most:
            return bytes(atheris.Mutate(content, most))
        return made

    more = {"custom_mutator": mutate} if fuzz_readers.READERS[name].json else {}
    atheris.Setup([sys.argv[0], *arguments], attempt, **more)
    atheris.Fuzz()


def main() -> int:
    """Fuzz the readers that are named, or all; return the exit code."""
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
        return 0
    import fuzz_readers

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("readers", nargs="*", help=", ".join(fuzz_readers.READERS))
    given = parser.parse_args()
    wrong = []
    for name in given.readers or fuzz_readers.READERS:
        with tempfile.TemporaryDirectory(prefix="secateur-corpus-") as place:
            corpus, faults = Path(place) / "corpus", Path(place) / "faults"
            corpus.mkdir()
            faults.mkdir()
            cases = [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]
            for number, seed in enumerate([*fuzz_readers.READERS[name].seeds(), *cases]):
                (corpus / str(number)).write_bytes(seed)
            print(f"{name}:", flush=True)
            code = fuzz(name, corpus, given.seconds, faults)
            for fault in faults.iterdir():
                content = fault.read_bytes()
                (FOUND / name).mkdir(parents=True, exist_ok=True)
                kept = FOUND / name / hashlib.sha256(content).hexdigest()[:12]
                kept.write_bytes(content)
                print(f"{name}: a fault, kept as {kept}", flush=True)
            if code:
                wrong.append(name)
    fuzz_readers.tidy()
    print(f"faults in: {', '.join(wrong)}" if wrong else "no fault")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
