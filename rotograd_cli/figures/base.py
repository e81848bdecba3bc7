"""What a figure is: where its data come from, and how they are drawn.

A figure is one class in one file of this folder, and one YAML file in ``conf/figure`` that names it
by ``_target_`` and holds its options; ``rotograd plot figure=NAME`` finds it there. The class
extends one of these, by where its data come from:

* :class:`RunsFigure`: the records of runs (``runs=GLOB``), :class:`LinesFigure` as lines;
* :class:`TableFigure`: a table of runs (``table=NAME``, or ``runs=GLOB``), :class:`TablesFigure`
  several (``table=[NAME,NAME]``);
* :class:`SearchFigure`: what the grid of a table found (``table=NAME``);
* :class:`ComputedFigure`: its own computation.

``draw`` returns a ``Drawing`` (``canvas.py``); the command writes it as PNG, PDF and CSV.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, Lt

from rotograd_cli.bounds import checked
from rotograd_cli.figures.canvas import Drawing
from rotograd_cli.figures.series import Axis, Band, LineOptions
from rotograd_cli.tables.parts import Table, Tried
from rotograd_cli.tables.runs import Run
from rotograd_cli.tables.spec import TableSpec


class Figure:
    """A figure.

    Args:
        name: Name of the files that are written.
    """

    def __init__(self, *, name: str) -> None:
        self.name = name


class RunsFigure(Figure, ABC):
    """A figure of what runs recorded while they trained."""

    @abstractmethod
    def draw(self, runs: Sequence[Run]) -> Drawing:
        """Draw the figure.

        Args:
            runs: The runs that were asked for, finished or not.

        Raises:
            ConfigError: If they do not have what is drawn.
        """


class LinesFigure(RunsFigure, ABC):
    """A figure with lines over training: mean and band of the seeds of each row of runs.

    Args:
        name: Name of the files that are written.
        x: Horizontal axis: ``step``, ``epoch`` (with fractions) or ``time`` (seconds of training,
            mean over the seeds).
        smooth: Weight of the past in exponential smoothing of every seed; None draws what was
            recorded.
        band: Over the seeds: ``minmax``, ``sem`` (mean plus and minus its standard error) or
            ``none``.
    """

    @checked
    def __init__(
        self, *, name: str, x: Axis, smooth: Annotated[float, Gt(0), Lt(1)] | None, band: Band
    ) -> None:
        super().__init__(name=name)
        self.options = LineOptions(x, smooth, band)


class OfTables(Figure, ABC):
    """What figures of tables share.

    Args:
        name: As in :class:`Figure`.
        table: Table that is drawn unless the command line says otherwise.
        columns: Columns or tasks of the table, as the figure takes them.
        title: Title.
    """

    def __init__(self, *, name: str, table: str, columns: Sequence[str], title: str) -> None:
        super().__init__(name=name)
        self.table = table
        self.columns = columns
        self.title = title

    @abstractmethod
    def columns_of(self, spec: TableSpec) -> TableSpec:
        """Return the table with the columns that are drawn in place of its own.

        Raises:
            ConfigError: If the table cannot have them.
        """


class TableFigure(OfTables):
    """A figure of a table's numbers.

    Args:
        name: As in :class:`Figure`.
        table: Table that is drawn unless ``table=`` or ``runs=`` says otherwise.
        columns: Columns or tasks of the table, as the figure takes them.
        title: Title, to which the number of seeds is added.
        x_label: Label of what is side by side.
        y_label: Label of the values.
    """

    def __init__(
        self,
        *,
        name: str,
        table: str,
        columns: Sequence[str],
        title: str,
        x_label: str,
        y_label: str,
    ) -> None:
        super().__init__(name=name, table=table, columns=columns, title=title)
        self.x_label = x_label
        self.y_label = y_label

    @abstractmethod
    def draw(self, table: Table) -> Drawing:
        """Draw a table with these columns, of which at least one cell has a value."""


class TablesFigure(OfTables):
    """A figure of the numbers of one table or of several (``table=[NAME,NAME]``).

    Args:
        name: As in :class:`Figure`.
        table: Table that is drawn unless ``table=`` or ``runs=`` says otherwise.
        columns: Columns of the tables, as the figure takes them.
        title: Title.
    """

    @abstractmethod
    def draw(self, tables: Sequence[Table]) -> Drawing:
        """Draw tables with these columns, each with a value in at least one cell."""


class SearchFigure(OfTables):
    """A figure of what was tried for the rows of a table, before their settings were chosen.

    Args:
        name: As in :class:`Figure`.
        table: Table that is drawn unless ``table=`` says otherwise.
        columns: Columns of the table to show beside the validation value.
        title: Title.
    """

    @abstractmethod
    def draw(self, tried: Tried) -> Drawing:
        """Draw the settings of at least one row."""


class ComputedFigure(Figure, ABC):
    """A figure that computes what it draws."""

    @abstractmethod
    def draw(self) -> Drawing:
        """Compute and draw the figure."""
