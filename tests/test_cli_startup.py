"""The command line explains and completes itself without importing what it would compute with."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

from secateur.terminal.application import COMMANDS

HEAVY = ("torch", "numpy", "scipy", "onnx", "onnxruntime", "matplotlib", "plotly", "PIL")
READERS = ("safetensors", "msgspec", "filelock", "platformdirs")
ASK = """
import sys
from secateur.cli import main
for command in sys.argv[2:]:
    sys.argv[1:] = [*command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
loaded = [name for name in {names!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""


def asked(names: tuple[str, ...], *commands: str) -> str:
    """Return what `--help` of commands prints, in one process that must not load some modules."""
    script = [sys.executable, "-c", ASK.format(names=names), "secateur", *commands]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_help_loads_nothing_to_compute_with() -> None:
    out = asked((*HEAVY, *READERS), "")
    assert all(command in out for command in COMMANDS)


def test_the_help_of_every_command_loads_nothing_to_compute_with() -> None:
    out = asked(HEAVY, *COMMANDS)
    assert out.count("Usage: ") == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_listed_by_what_it_says_of_itself(command: str) -> None:
    home, summary = COMMANDS[command]
    module, _, function = home.partition(":")
    said = inspect.getdoc(getattr(import_module(module), function))
    assert said is not None
    assert said.split("\n\n")[0].replace("\n", " ") == summary


@pytest.mark.parametrize(
    ("words", "found"), [("secateur ", list(COMMANDS)), ("secateur report --a", ["--all"])]
)
def test_a_shell_completes_commands_and_options(words: str, found: list[str]) -> None:
    asking = {
        "_SECATEUR_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = "import sys; sys.argv = ['secateur']; from secateur.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asking,
    )
    assert done.stdout.split() == found
    assert not re.search(r"\| +torch\n", done.stderr)
