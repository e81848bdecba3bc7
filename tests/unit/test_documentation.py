"""Links of the documentation lead to files and headings, and the site has every page."""

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "datasets").glob("*/README.md")),
]
LINK = re.compile(r'(?:\]\(|src=")(?![a-z]+:)([^)"#\s]*)(?:#([^)"\s]+))?[)"]')


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as the git host makes them."""
    headings = re.findall(r"^#+ (.*)", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    broken = []
    num_links = 0
    for page in PAGES:
        for path, anchor in LINK.findall(prose(page)):
            target = (page.parent / path).resolve() if path else page
            num_links += 1
            has_anchor = not anchor or anchor in anchors(target)
            if not target.exists() or not has_anchor:
                broken.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert not broken
    assert num_links > 50


def test_the_site_has_every_page() -> None:
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ +- .*?([\w/]+\.md)$", configuration, flags=re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed
    made = ("repository/", "reference/")
    assert not {page for page in listed - pages if not page.startswith(made)}


def test_the_site_has_no_markup_of_sphinx(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    in_markdown = importlib.import_module("docs_docstrings").in_markdown
    docstring = """
    .. math:: a_k
        + b_k

        - c

    of :class:`~a.b.C` and :math:`x_k
    y_k`."""
    assert in_markdown(docstring).split() == [
        *("$$a_k", "+", "b_k", "-", "c$$", "of"),
        *("<autoref", "optional", 'identifier="a.b.C">`C`</autoref>', "and", "$x_k", "y_k$."),
    ]
    markup = re.compile(r"\.\. math|:(?:math|class|func|meth|attr|mod|data|exc|obj|ref):`")
    for path in (ROOT / "rotograd_cli").rglob("*.py"):
        left = markup.search(in_markdown(path.read_text(encoding="utf-8")))
        assert not left, f"{path}: {left}"
