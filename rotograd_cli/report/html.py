"""Pieces of the page as HTML text. Every text that comes from a run is escaped here."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rotograd_cli.printing.grid import Grid


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
    """Return a table of texts: best values bold, second best underlined."""
    heads = "".join(_cell("th", head, i, grid.num_labels) for i, head in enumerate(grid.heads))
    body = "".join(
        f"<tr>{''.join(_entry(entry, i, grid.num_labels) for i, entry in enumerate(row))}</tr>"
        for row in grid.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _entry(entry: object, index: int, num_labels: int) -> str:
    rank = getattr(entry, "rank", None)
    mark = {1: "best", 2: "second"}.get(rank or 0, "")
    return _cell("td", getattr(entry, "text", ""), index, num_labels, mark)


def _cell(tag: str, words: str, index: int, num_labels: int, mark: str = "") -> str:
    classes = " ".join(filter(None, ("" if index < num_labels else "number", mark)))
    attribute = f' class="{classes}"' if classes else ""
    return f"<{tag}{attribute}>{text(words)}</{tag}>"


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
    """Return the colours of lines, in the order of the page's colours."""
    lines = (
        f'<li><i style="background:var(--c{index})"></i>{text(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(lines)}</ul>'
