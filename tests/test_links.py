"""Every link of README and docs leads somewhere: to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path
    for folder in ("src", "benchmarks", "examples", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def prose(page: Path) -> str:
    """Return a page without its blocks of code, whose comments look like headings."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures that stay in this repository."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        assert not anchor or anchor in headings(target), f"{link}: no such heading in {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    to_read = [ROOT / "README.md"]
    while to_read:
        page = to_read.pop()
        if page in seen:
            continue
        seen.add(page)
        named = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        to_read += [path for path in named if path.suffix == ".md"]
    assert set(PAGES) <= seen


def test_pages_that_the_code_names_exist() -> None:
    named = [
        (path.relative_to(ROOT), name)
        for path in CODE
        for name in re.findall(r"\bdocs/[\w/.-]+\.(?:md|csv|svg)\b", path.read_text("utf-8"))
    ]
    assert len(named) >= 3
    assert [(path, name) for path, name in named if not (ROOT / name).exists()] == []
