"""Critical-difference diagram: mean ranks of methods, and which of them are told apart."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rotograd_cli.errors import ConfigError, hydra_value, listed, suggest
from rotograd_cli.figures.base import TablesFigure
from rotograd_cli.figures.canvas import Drawing, Value, new_canvas
from rotograd_cli.figures.ranking import Block, Ranking
from rotograd_cli.tables.colours import styles
from rotograd_cli.tables.parts import Column, Row, Table
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.statistics import LEVEL, average_ranks

if TYPE_CHECKING:
    from rotograd_cli.figures.canvas import Axes, Canvas

LEAST_METHODS = 3
"""Friedman's test is for more than two; two rows are compared seed by seed below their table."""
LEAST_BLOCKS = 2
MARGIN = 0.45
"""Room for labels on either side, relative to the axis."""
BAR_STEP = 0.3
LABEL_STEP = 0.5


class Ranks(TablesFigure):
    """Mean ranks over blocks; bars join methods that Nemenyi's test does not tell apart.

    A block is a column of a table. ``columns`` are columns of every table; none takes the metrics
    of its tasks, or its statistics over tasks if it has no others.

    References:
        Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.
    """

    def columns_of(self, spec: TableSpec) -> TableSpec:
        """Return the table with the columns that are blocks, without its single-task networks."""
        metrics = [n for n, c in spec.columns.items() if c.metric and c.count_within is None]
        of_tasks = [name for name in metrics if not spec.columns[name].is_over_tasks]
        names = self.columns or of_tasks or metrics
        by_seed = [n for n, c in spec.columns.items() if c.mean_rank_of is None and not c.hours]
        for name in names:
            if name not in by_seed:
                raise ConfigError(
                    f"`figure.columns` must name columns of table {spec.name!r} that rank its "
                    f"rows, got {name!r}; {suggest(name, by_seed)}"
                )
        rows = {
            name: dataclasses.replace(row, shown=row.shown and not _is_base(spec, name))
            for name, row in spec.rows.items()
        }
        columns = {name: spec.columns[name] for name in names}
        return dataclasses.replace(spec, columns=columns, rows=rows, compare_with=None, paper=None)

    def draw(self, tables: Sequence[Table]) -> Drawing:
        """Draw the diagram.

        Raises:
            ConfigError: If there are too few blocks or methods, or a method lacks a number.
        """
        self._check_methods(tables)
        ranking = Ranking(self._blocks(tables))
        labels = {row.name: row.label for row in tables[0].rows}
        canvas = new_canvas(1.8 + 0.17 * len(labels) + 0.12 * len(ranking.joined))
        _draw(canvas.subplots(), ranking, labels)
        self._add_title(canvas, ranking)
        heads = ["method", "mean_rank", *(block.name for block in ranking.blocks)]
        return Drawing(canvas, heads, _numbers(ranking, labels), _notes(tables, ranking))

    def _check_methods(self, tables: Sequence[Table]) -> None:
        gaps = {row.name: _gap(tables, row) for table in tables for row in table.rows}
        complete = [name for name, gap in gaps.items() if not gap]
        if len(complete) < LEAST_METHODS:
            raise ConfigError(
                f"Figure {self.name!r} needs at least {LEAST_METHODS} methods that have every "
                f"metric at every seed, got {len(complete)}; name more, or train them with "
                "rotograd reproduce."
            )
        incomplete = [gap for gap in gaps.values() if gap]
        if incomplete:
            methods = ",".join(hydra_value(name) for name in complete)
            raise ConfigError(
                f"Figure {self.name!r} needs every method in every metric at every seed, got "
                f"{listed(incomplete)}; leave such methods out, 'methods=[{methods}]'."
            )

    def _blocks(self, tables: Sequence[Table]) -> list[Block]:
        pairs = [(table, column) for table in tables for column in table.columns]
        blocks = [_block(table, column) for table, column in pairs if column.better is not None]
        if len(blocks) < LEAST_BLOCKS:
            raise ConfigError(
                f"Figure {self.name!r} needs at least {LEAST_BLOCKS} columns with a better end, "
                f"got {len(blocks)}; add tables, 'table=[NAME,NAME]'."
            )
        return blocks

    def _add_title(self, canvas: "Canvas", ranking: Ranking) -> None:
        verdict = "" if ranking.p < LEVEL else ": no difference shown"
        canvas.suptitle(
            f"{self.title} of {len(ranking.means)} methods over {len(ranking.blocks)} metrics "
            f"(1 is best)\nFriedman's test: p = {ranking.p:.2g}{verdict}; bars join what is not "
            "told apart"
        )


def _numbers(ranking: Ranking, labels: Mapping[str, str]) -> list[list[Value]]:
    """Mean rank and ranks of every method, the best first."""
    return [
        [labels[method], mean, *(block.ranks[method] for block in ranking.blocks)]
        for method, mean in ranking.means.items()
    ]


def _is_base(spec: TableSpec, row: str) -> bool:
    return spec.rows[row].per_task or row == spec.base


def _gap(tables: Sequence[Table], row: Row) -> str:
    """Why a row cannot be ranked everywhere; empty if it can."""
    for table in tables:
        here = next((each for each in table.rows if each.name == row.name), None)
        if here is None:
            return f"{row.label} (not in table {table.name})"
        if here.missing:
            return f"{row.label} ({here.num_seeds} of {len(table.seeds)} seeds of {table.name})"
        for column in table.columns:
            cell = here.cells[column.name]
            if cell.centre is None or cell.note is not None:
                return f"{row.label} (no {column.label} at some seed)"
    return ""


def _block(table: Table, column: Column) -> Block:
    assert column.better is not None
    cells = {row.name: row.cells[column.name] for row in table.rows}
    if all(cell.rank is None for cell in cells.values()):
        raise ConfigError(
            f"Column {column.name!r} of table {table.name!r} is not ranked, as its rows were not "
            "measured alike; rotograd table with the same runs says who has what."
        )
    centres = {name: cell.centre for name, cell in cells.items() if cell.centre is not None}
    return Block(f"{table.name}/{column.name}", average_ranks(centres, column.better))


def _draw(axes: "Axes", ranking: Ranking, labels: Mapping[str, str]) -> None:
    """Draw the axis of ranks, the critical difference above it, bars and labels below."""
    _draw_axis(axes, len(labels))
    highest = _draw_distance(axes, ranking.distance)
    margin = 0.01 * len(labels)
    for place, (low, high) in enumerate(ranking.joined, start=1):
        height = -BAR_STEP * place
        axes.plot([low - margin, high + margin], [height, height], color="black", linewidth=4)
    top = -BAR_STEP * (len(ranking.joined) + 1)
    lowest = _draw_labels(axes, ranking, labels, top)
    axes.set_ylim(lowest - LABEL_STEP, highest)


def _draw_axis(axes: "Axes", most: int) -> None:
    """Draw the axis from 1 to the number of methods, at height 0."""
    room = MARGIN * (most - 1)
    axes.set_xlim(1 - room, most + room)
    axes.set_xticks(range(1, most + 1))
    axes.xaxis.tick_top()
    axes.yaxis.set_visible(False)
    for side in ("left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.spines["top"].set_bounds(1, most)
    axes.spines["top"].set_position(("data", 0))


def _draw_distance(axes: "Axes", distance: float) -> float:
    """Draw the critical difference above the axis; return the height that it ends at."""
    above = 1.2
    axes.plot([1, 1 + distance], [above, above], "|-", color="black", markersize=8)
    text = f"critical difference {distance:.2f} (Nemenyi, {100 * LEVEL:g} %)"
    axes.text(1, above + 0.2, text, va="bottom")
    return above + 0.7


def _draw_labels(axes: "Axes", ranking: Ranking, labels: Mapping[str, str], top: float) -> float:
    """Name the better half on the left, the worse one on the right; return the lowest height."""
    most = len(labels)
    style = styles(list(labels.values()))
    lowest = top
    for place, (method, mean) in enumerate(ranking.means.items()):
        is_left = place < (most + 1) // 2
        height = top - LABEL_STEP * (place if is_left else most - 1 - place)
        end = 1 - 0.02 * most if is_left else most + 0.02 * most
        label = labels[method]
        color = style[label].color
        axes.plot([mean, mean, end], [0, height, height], color=color, linewidth=1.2)
        text = f"{label}  {mean:.2f} " if is_left else f" {mean:.2f}  {label}"
        axes.text(end, height, text, ha="right" if is_left else "left", va="center")
        lowest = min(lowest, height)
    return lowest


def _notes(tables: Sequence[Table], ranking: Ranking) -> list[str]:
    seeds = {len(table.seeds) for table in tables}
    return [
        f"Blocks: {', '.join(block.name for block in ranking.blocks)}. In each, methods are ranked "
        f"by the {tables[0].statistic.split('_')[0]} over seeds ({listed(sorted(map(str, seeds)))} "
        "of each): seeds are no data sets of their own.",
        "Friedman's and Nemenyi's tests take blocks as independent. Metrics of one table share "
        "their runs and their test set, so that p is too small and the critical difference too.",
        *_few_note(ranking),
    ]


def _few_note(ranking: Ranking) -> list[str]:
    if len(ranking.blocks) > 10 and len(ranking.means) > 5:
        return []
    return [
        "The distribution of Friedman's statistic is exact enough for more than 10 blocks and 5 "
        f"methods (Demšar), here are {len(ranking.blocks)} and {len(ranking.means)}."
    ]
