"""Pieces of the page as HTML text. Every text that comes from a run is escaped here."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rotograd_cli.printing.grid import Entry, Grid
from rotograd_cli.report.palette import variables

MAX_NARROW = 4
"""Columns of a table that a narrow screen has room for."""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, to which the navigation leads."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """Identifier in the page."""
        return self.title.lower().replace(" ", "-")


def text(value: object) -> str:
    """Return a text as HTML shows it."""
    return html.escape(str(value))


def sentence(words: str) -> str:
    """Return a paragraph that stands where something is missing, or explains what is there."""
    return f'<p class="note">{text(words)}</p>'


def heading(words: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{text(words)}</h3>"


def code(words: str) -> str:
    """Return a command to copy."""
    return f"<pre><code>{text(words)}</code></pre>"


def facts(values: Mapping[str, object]) -> str:
    """Return names and values as a list; what is None is left out."""
    rows = (
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in values.items()
        if value is not None
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def table(grid: Grid) -> str:
    """Return a table of texts: best values bold, second best underlined.

    On a narrow screen a table of many columns shows each row as a list of heads and values.
    """
    heads = "".join(
        f"<th{_classes(grid, i)}>{text(head)}</th>" for i, head in enumerate(grid.heads)
    )
    rows = (
        "".join(_entry(entry, i, grid) for i, entry in enumerate(entries)) for entries in grid.rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    kind = "wide" if len(grid.heads) > MAX_NARROW else "few"
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _entry(entry: Entry, index: int, grid: Grid) -> str:
    mark = {1: "best", 2: "second", None: ""}[entry.rank]
    words = "<br>".join(map(text, entry.text.split("\n")))
    head = text(grid.heads[index])
    return f'<td{_classes(grid, index, mark)} data-head="{head}"><span>{words}</span></td>'


def _classes(grid: Grid, index: int, mark: str = "") -> str:
    classes = " ".join(filter(None, ("" if index < grid.num_labels else "number", mark)))
    return f' class="{classes}"' if classes else ""


def cards(contents: Iterable[str], kind: str = "") -> str:
    """Return boxes that stand side by side as far as there is room."""
    boxes = "".join(f'<div class="card">{content}</div>' for content in contents)
    return f'<div class="cards {kind}">{boxes}</div>'


def details(summary: str, body: str) -> str:
    """Return what is folded away behind a line."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def bullets(lines: Sequence[str]) -> str:
    """Return sentences as a list."""
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"


def remarks(lines: Sequence[str]) -> str:
    """Return the sentences below a table or charts; nothing for none."""
    return f'<div class="remarks">{bullets(lines)}</div>' if lines else ""


def legend(names: Sequence[str]) -> str:
    """Return the colours of lines."""
    lines = (
        f'<li><i style="background:{colour}"></i>{text(name)}</li>'
        for name, colour in variables(names).items()
    )
    return f'<ul class="legend">{"".join(lines)}</ul>'
