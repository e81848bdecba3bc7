"""``rotograd reproduce``: plan, train what is missing, choose on validation, show the table."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.commands.reproduce.cells import Cell, CellMaker
from rotograd_cli.commands.reproduce.estimate import plan_table
from rotograd_cli.commands.reproduce.grid import grid_notes, write_grid
from rotograd_cli.commands.reproduce.launching import launch
from rotograd_cli.commands.reproduce.plan import Candidate, Place, Planner, choices, without_choice
from rotograd_cli.commands.reproduce.probe import measured_seconds
from rotograd_cli.errors import ConfigError, NonFiniteError
from rotograd_cli.runs.building import build
from rotograd_cli.runs.config import config_dir, register_schemas, typed
from rotograd_cli.runs.messages import explain
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.words import search_path
from rotograd_cli.tables.checks import STATISTICS, check_choice, check_spec
from rotograd_cli.tables.command import to_seeds
from rotograd_cli.tables.formats import write_table
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import collect
from rotograd_cli.tables.runs import RunKey, read_run
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import row_label, select_rows
from rotograd_cli.tables.table import build_table

OWN_KEYS = ("table", "seeds", "methods", "statistic", "plan", "output", "figure")
"""First parts of the overrides that are the command's; the others are for its runs."""

PROBING_S = 20.0
"""Seconds after which no other row is timed for the plan."""


@dataclass
class ReproduceConfig:
    """The command's own keys; ``conf/reproduce.yaml`` says what each means."""

    table: TableSpec = field(default_factory=TableSpec)
    seeds: Any = None
    methods: list[str] | None = None
    statistic: str | None = None
    plan: bool = False
    output: str | None = None


@dataclass(frozen=True)
class Words:
    """The command line, by what it is for."""

    own: list[str]
    runs: list[str]
    launcher: list[str]
    """For Hydra: the choice of a launcher and its options."""
    config_dir: Path | None

    @property
    def search_path(self) -> list[str]:
        """Override that adds the user's folder to a composition."""
        folder = self.config_dir
        return [] if folder is None else [search_path(folder)]


class Reproduction:
    """One table: what it needs, what of it is there, and the table made of that.

    Args:
        words: The command line.

    Raises:
        ConfigError: If an override is wrong, or a cell cannot be composed.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.config = _own_config(words)
        self.spec = select_rows(self.config.table, self.config.methods)
        self.seeds = to_seeds(self.config.seeds) or list(range(self.spec.seeds))
        maker = CellMaker([*words.runs, *words.search_path], self.spec.name)
        self.planner = Planner(self.spec, maker, self.seeds)
        with composing():
            self.grid_cells = self.planner.grid_cells()
            self.candidates: list[Candidate] = []
            self.final_cells: list[Cell] = []
            self.choose()

    def choose(self) -> None:
        """Takes the best of the grid for the rows whose runs of it are all there."""
        open_places = {
            (cell.run.row, cell.run.task) for cell in self.grid_cells if not cell.finished
        }
        candidates = self.planner.candidates()
        self.candidates = [c for c in candidates if (c.row, c.task) not in open_places]
        self.final_cells = self.planner.final_cells(choices(self.candidates))

    def plan(self) -> tuple[list[str], list[list[str]], str]:
        """What there is to do: heads, rows and title of a table."""
        num_final = {place: len(self.seeds) for place in self.planner.places()}
        return plan_table(self.spec, self.grid_cells, self.final_cells, num_final, self._measured())

    def _measured(self) -> dict[str, float]:
        """Seconds of a run of rows that have none, measured as long as ``PROBING_S`` lasts.

        Raises:
            RotogradError: If a run cannot be built.
        """
        start, found = time.monotonic(), {}
        cells = [*self.grid_cells, *self.final_cells]
        for row in self.spec.rows:
            own = [cell for cell in cells if cell.run.row == row]
            pending = [cell for cell in own if not cell.finished]
            if pending and len(pending) == len(own) and time.monotonic() - start < PROBING_S:
                with suppress(NonFiniteError):  # training will say so, run by run
                    found[row] = measured_seconds(pending[0].config)
        return found

    def check(self) -> None:
        """Builds one pending run of every row, so that what cannot run is refused before training.

        Raises:
            RotogradError: If data are missing, or a component is refused or does not fit.
        """
        pending = _pending([*self.grid_cells, *self.final_cells])
        for cell in {cell.run.row: cell for cell in reversed(pending)}.values():
            build(cell.config)

    def run(self) -> None:
        """Trains the grid, chooses, trains the rest; finished cells are left as they are."""
        self._launch(self.grid_cells)
        with composing():
            self.candidates = self.planner.candidates()
            self.final_cells = self.planner.final_cells(choices(self.candidates))
        self._launch(self.final_cells)

    def _launch(self, cells: Sequence[Cell]) -> None:
        launch(_pending(cells), [*self.words.launcher, *self.words.search_path])

    def failures(self) -> list[str]:
        """Cells that are not finished, with what became of them, and rows without a choice."""
        cells = {cell.run_dir: cell for cell in (*self.grid_cells, *self.final_cells)}
        unfinished = [cell for cell in cells.values() if _became(cell) != "finished"]
        rows = [
            f"{row_label(self.spec, row)}{'' if task is None else f' {task}'}: {reason}"
            for (row, task), reason in without_choice(self.candidates).items()
        ]
        return [*(f"{c.run_dir}: {_became(c)}" for c in unfinished), *rows]

    def table(self, spec: TableSpec | None = None) -> Table:
        """The table of what is there; what is missing is marked.

        Args:
            spec: Table with other columns and the same rows; None takes the table itself.

        Returns:
            The table.
        """
        spec = spec or self.spec
        runs = {cell.run: read_run(cell.run_dir) for cell in self.final_cells if cell.finished}
        results = collect(spec, runs, self.seeds, self._not_chosen())
        notes = grid_notes(spec, self.candidates)
        return build_table(spec, results, statistic=self.config.statistic, notes=notes)

    def _not_chosen(self) -> dict[RunKey, str]:
        """Reason by cell whose setting the grid did not give."""
        reasons = without_choice(self.candidates)
        done = {*choices(self.candidates), *reasons}
        open_places = {place for place in self.planner.places() if self._has_grid(place)} - done
        reasons |= dict.fromkeys(open_places, "grid not finished")
        return {
            RunKey(row, seed, task): reason
            for (row, task), reason in reasons.items()
            for seed in self.seeds
        }

    def _has_grid(self, place: Place) -> bool:
        return len(self.planner.points(place[0])) > 1

    def write(self, table: Table) -> list[Path]:
        """Writes the table's files, and the grid's."""
        output = Path(self.config.output).expanduser() if self.config.output else self.folder
        files = list(write_table(table, output))
        return [*files, *write_grid(self.candidates, output)]

    @property
    def folder(self) -> Path:
        """Where the table's files go by default."""
        cells = [*self.grid_cells, *self.final_cells]
        return cells[0].run_dir.parent.parent / "tables" / self.spec.name


def parse(words: Sequence[str]) -> Words:
    """Sorts the words of the command line.

    Args:
        words: Words after ``rotograd reproduce``.

    Returns:
        The words by what they are for.

    Raises:
        ConfigError: If an option is unknown or a word is no override.
    """

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; rotograd reproduce --help shows the options.")

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args(list(words))
    folder = None if options.config_dir is None else Path(options.config_dir).resolve()
    own: list[str] = []
    runs: list[str] = []
    launcher: list[str] = []
    for word in options.words:
        key = word.partition("=")[0].lstrip("+~")
        first = key.replace("/", ".").split(".")[0]
        (own if first in OWN_KEYS else launcher if first in ("hydra", "launcher") else runs).append(
            word
        )
    return Words(own, _checked(runs), launcher, folder)


def _checked(words: Sequence[str]) -> list[str]:
    for word in words:
        key, equals, _ = word.partition("=")
        if key == "seed":
            raise ConfigError("`seed` is the table's business; seeds=3 or seeds=[0,1] choose them.")
        if key in ("method", "experiment"):
            raise ConfigError(
                f"`{key}` is the table's business; methods=[NAME,...] chooses rows, and a table of "
                "your own is a file in DIR/table with --config-dir DIR."
            )
        if not equals and not key.startswith("~"):
            raise ConfigError(
                f"An override must read KEY=VALUE, got {word!r}; did you mean table={word}?"
            )
    return list(words)


@contextmanager
def composing() -> Iterator[None]:
    """Hydra, as far as composing needs it."""
    register_schemas()
    ConfigStore.instance().store(name="reproduce_schema", node=ReproduceConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


def _own_config(words: Words) -> ReproduceConfig:
    with composing():
        try:
            composed = compose("reproduce", [*words.own, *words.search_path])
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, "reproduce", words.own) or str(error)) from error
        return to_reproduce_config(composed)


def to_reproduce_config(config: DictConfig | Mapping[str, Any]) -> ReproduceConfig:
    """Typed and checked configuration of the command.

    Args:
        config: Composed configuration.

    Returns:
        The configuration.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type or out of range.
    """
    result = typed(config, ReproduceConfig)
    check_spec(result.table)
    if result.statistic is not None:
        check_choice("statistic", result.statistic, STATISTICS)
    to_seeds(result.seeds)
    return result


def _pending(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that are not finished, each folder once."""
    return list({cell.run_dir: cell for cell in cells if not cell.finished}.values())


def _became(cell: Cell) -> str:
    """``finished``, or in words why it is not."""
    summary = RunSummary.read(cell.run_dir)
    if summary is None:
        return "no result"
    if cell.finished:
        return summary.outcome
    return summary.error or f"{summary.status}, not finished"
