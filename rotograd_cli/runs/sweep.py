"""The results of a sweep: a table of its cells, and the files that it leaves in its folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from rotograd_cli.files import replace_text
from rotograd_cli.printing.grid import Entry, Grid
from rotograd_cli.runs.protocols import completed, protocol_of, suffixes
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.runs.terminal import column_head, format_selected, format_value, shown_metrics

Cells = Sequence[tuple[str, RunSummary | None]]
"""Name and summary of each cell; None where a cell wrote nothing."""
MAX_DIGITS = 8
"""Characters of a number that was drawn by a search, beyond which it is rounded."""


def sweep_table(cells: Cells, search: str | None = None) -> Grid:
    """Return what the cells of a sweep differ in, their selection values and test metrics.

    Numbers are those of finished cells; a column of the status is there unless all are finished.

    Args:
        cells: The cells.
        search: ``min`` or ``max`` where a search drew the cells: the selection value is what it
            searched by, and the best is marked.
    """
    summaries = completed(_summaries(cells))
    columns = [("cell", [name for name, _ in cells])]
    if not all(summary.is_finished for summary in summaries):
        columns.append(("status", [summary.outcome for summary in summaries]))
    differences = {key: list(map(_rounded, texts)) for key, texts in differing(summaries).items()}
    if "method" in differences:
        named = zip(summaries, differences["method"], strict=True)
        differences["method"] = [summary.method_label or text for summary, text in named]
    columns += differences.items()
    num_labels = len(columns)
    selected = _selected_by(summaries)
    if selected:
        head = f"{'searched' if search else 'selected by'} {selected}"
        columns.append((head, [format_selected(summary.selected_value) for summary in summaries]))
    for key, spec in shown_metrics(summaries).items():
        columns += _tested(key, spec, summaries)
    rows = zip(*(texts for _, texts in columns), strict=True)
    grid = Grid.of_texts([head for head, _ in columns], rows, _title(summaries), num_labels)
    if search and selected:
        _mark_best(grid, num_labels, [summary.selected_value for summary in summaries], search)
    return grid


def _tested(
    key: str, spec: MetricDisplay, summaries: Sequence[RunSummary]
) -> list[tuple[str, list[str]]]:
    """Return head and texts of a test metric: one column, or one for each of its protocols."""
    protocols = [protocol_of([s], [key]) if s.is_finished else "" for s in summaries]
    columns = []
    for protocol, suffix in (suffixes(filter(None, protocols)) or {"": ""}).items():
        values = [
            summary.metrics.get(f"test/{key}") if own and own == protocol else None
            for summary, own in zip(summaries, protocols, strict=True)
        ]
        texts = [format_value(value, spec.percent) for value in values]
        columns.append((f"{column_head(key, spec)}{suffix}", texts))
    return columns


def _summaries(cells: Cells) -> list[RunSummary]:
    return [summary or RunSummary(status="no result") for _, summary in cells]


def _title(summaries: Sequence[RunSummary]) -> str:
    data = ", ".join(dict.fromkeys(s.data for s in summaries if s.data is not None))
    num = f"{len(summaries)} {'cell' if len(summaries) == 1 else 'cells'}"
    is_selected = all(summary.averaged_epochs is None for summary in summaries)
    which = " of the selected epoch" if is_selected else ""
    return f"{num}{f' on {data}' if data else ''}: test metrics{which}"


def _selected_by(summaries: Sequence[RunSummary]) -> str:
    return " / ".join(dict.fromkeys(s.select for s in summaries if s.select is not None))


def _mark_best(grid: Grid, column: int, values: Sequence[float | None], direction: str) -> None:
    known = [value for value in values if value is not None]
    if not known:
        return
    best = min(known) if direction == "min" else max(known)
    row = grid.rows[values.index(best)]
    row[column] = Entry(row[column].text, rank=1)


def differing(summaries: Sequence[RunSummary]) -> dict[str, list[str]]:
    """Return the overrides in which cells differ.

    Args:
        summaries: Summaries of the cells.

    Returns:
        The values of all cells by key, empty where a cell does not set it; a key that is deleted
        (``~key``) has no value either. Keys are in order of appearance.
    """
    cells = [dict(_key_and_value(word) for word in s.overrides) for s in summaries]
    keys = dict.fromkeys(key for cell in cells for key in cell)
    values = {key: [cell.get(key, "") for cell in cells] for key in keys}
    return {key: texts for key, texts in values.items() if len(set(texts)) > 1 or len(cells) == 1}


def common_overrides(summaries: Sequence[RunSummary]) -> list[str]:
    """Return the overrides that all cells of a sweep have, in order; none for a single cell."""
    if len(summaries) < 2:
        return []
    first, *others = summaries
    return [word for word in first.overrides if all(word in s.overrides for s in others)]


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _rounded(text: str) -> str:
    """Return a long fraction with four digits; whole numbers and other texts as they are."""
    if len(text) <= MAX_DIGITS or text.lstrip("+-").isdigit():
        return text
    try:
        return f"{float(text):.4g}"
    except ValueError:
        return text


def write_sweep(sweep_dir: Path, cells: Cells, table: Grid, lines: Sequence[str]) -> list[Path]:
    """Write ``sweep.md`` and ``sweep.csv`` into the folder of a sweep.

    Args:
        sweep_dir: The folder.
        cells: Its cells.
        table: What :func:`sweep_table` returned for them.
        lines: Sentences below the table.

    Returns:
        The files. The second has every recorded metric of every cell, with all digits.
    """
    markdown = sweep_dir / "sweep.md"
    text = "\n\n".join([f"# {table.title}", table.markdown(), *lines])
    replace_text(markdown, f"{text}\n")
    numbers = sweep_dir / "sweep.csv"
    replace_text(numbers, _csv(cells))
    return [markdown, numbers]


def _csv(cells: Cells) -> str:
    summaries = _summaries(cells)
    overrides = differing(summaries)
    metrics = list(dict.fromkeys(key for summary in summaries for key in summary.metrics))
    fixed = ("status", "method", "data", "seed", "selected_epoch", "select", "selected_value")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["cell", *overrides, *(key for key in fixed if key not in overrides), *metrics])
    for index, (name, _) in enumerate(cells):
        summary = summaries[index]
        values = _fixed(summary)
        drawn = [texts[index] for texts in overrides.values()]
        known = [values[key] for key in fixed if key not in overrides]
        writer.writerow([name, *drawn, *known, *map(summary.metrics.get, metrics)])
    return file.getvalue()


def _fixed(summary: RunSummary) -> Mapping[str, object]:
    return {**vars(summary), "status": summary.outcome, "selected_value": summary.selected_value}
