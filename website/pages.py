"""Pages of the site that are made, not written: the reference, and the files that pages link to.

MkDocs calls `on_files` and `on_page_markdown` (see mkdocs.yml). A link that leaves docs/, such as
../examples/own_task.py, leads to a page that shows that file.
"""

from __future__ import annotations

import inspect
import json
import os.path
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

import secateur

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("*.md", "examples/*.py", "examples/*.ipynb", "examples/*/*", "benchmarks/*.py")
"""What of the repository has a page of its own."""

_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)((?:#[^)\s]*)?)(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for place, text in _made():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at the pages of those files."""
    place = page.file.src_uri
    if place.startswith("repository/"):
        return markdown  # done when it was made
    return _linked(markdown, PurePosixPath("docs") / place, place)


def _made() -> Iterator[tuple[str, str]]:
    yield "reference/index.md", _index()
    for name in secateur.__all__:
        home = f"{secateur._HOMES[name]}.{name}"
        yield f"reference/{name}.md", f"# secateur.{name}\n\n::: {home}\n"
    yield "reference/command-line.md", _command_line()
    shown = _shown()
    rows = [f"- [{path}]({_page(path).removeprefix('repository/')})" for path in shown]
    yield "repository/index.md", "# The repository\n\n" + "\n".join(rows) + "\n"
    for path in shown:
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.endswith((".md", ".ipynb")):
            text = _notebook(text) if path.endswith(".ipynb") else text
            yield _page(path), _linked(text, PurePosixPath(path), _page(path))
        else:
            yield _page(path), f"# {path}\n\n````{PurePosixPath(path).suffix[1:]}\n{text}````\n"


def _index() -> str:
    rows = ["# Public names", "", "| `secateur.` | what it is |", "|---|---|"]
    for name in secateur.__all__:
        first = (inspect.getdoc(getattr(secateur, name)) or "").split("\n\n")[0]
        rows.append(
            f"| [`{name}`]({name}.md) | {' '.join(first.split()).replace('|', chr(92) + '|')} |"
        )
    return "\n".join(rows) + "\n"


def _command_line() -> str:
    """Return what typer says of every command and option."""
    typer = [sys.executable, "-m", "typer", str(ROOT / "website" / "commands.py")]
    done = subprocess.run(
        [*typer, "utils", "docs", "--name", "secateur"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"typer cannot document the commands: {done.stderr}")
    return done.stdout


def _notebook(text: str) -> str:
    """Return a notebook as Markdown: its words, its code, and what that printed and drew."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"````python\n{source}\n````" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            if picture := output.get("data", {}).get("image/png"):
                parts.append(
                    f'<img alt="what the cell draws" src="data:image/png;base64,{picture.strip()}">'
                )
            elif "text" in output:
                parts.append(f"````text\n{''.join(output['text'])}````")
    return "\n\n".join(parts) + "\n"


def _shown() -> list[str]:
    """Return the files that get a page: those of SHOWN, and what these link to."""
    found = {str(path.relative_to(ROOT)) for what in SHOWN for path in ROOT.glob(what)}
    for page in [path for path in found if path.endswith(".md")]:
        links = _LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        found |= {os.path.normpath(link) for link, _ in links if (ROOT / link).is_file()}
    return sorted(path for path in found if not path.startswith("docs/"))


def _page(path: str) -> str:
    """Return where in the site a file of the repository is shown."""
    return f"repository/{path if path.endswith('.md') else path + '.md'}"


def _linked(text: str, source: PurePosixPath, place: str) -> str:
    """Rewrite the links of a page that stands at `source` and is shown at `place`."""

    def rewritten(link: re.Match[str]) -> str:
        target = os.path.normpath(source.parent / link[1])
        if target.startswith("docs/"):
            shown = target.removeprefix("docs/")
        elif (ROOT / target).is_dir():
            shown = "repository/index.md"
        else:
            shown = _page(target)
        return os.path.relpath(shown, PurePosixPath(place).parent) + link[2]

    return _LINK.sub(rewritten, text)
