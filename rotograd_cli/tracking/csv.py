"""``metrics.csv``: the records as a table."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rotograd_cli.files import replace_text
from rotograd_cli.tracking.jsonl import records
from rotograd_cli.tracking.mirror import Mirror


class CsvTracker(Mirror):
    """Keep a table for spreadsheets and ``pandas.read_csv``: a row per record, a column per key.

    It always holds the content of ``metrics.jsonl``, which has a record before a mirror sees it. A
    key that appears later becomes the last column. A cell is empty where the record lacks the key
    or its value is not finite.

    Args:
        run_dir: Run directory, where ``metrics.csv`` is written.
        config: Resolved configuration; not used.
        tags: Tags of the run; not used.
    """

    name: ClassVar[str] = "csv"

    def __init__(self, *, run_dir: Path, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        del config, tags
        super().__init__()
        self._path = run_dir / "metrics.csv"
        self._run_dir = run_dir
        self._columns: list[str] = []
        self.guard("start", self._write_all)

    def log(self, record: Mapping[str, float]) -> None:
        """Append a row, or write the file anew where it lacks a column."""
        is_complete = set(record) <= set(self._columns)
        write = (lambda: self._append(record)) if is_complete else self._write_all
        if not self.guard("log", write):
            self._columns = []  # a row may be half there: the next record writes all of them

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: every row is on disk."""

    def _append(self, record: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_rows([record], self._columns))

    def _write_all(self) -> None:
        columns: dict[str, None] = {}
        for record in records(self._run_dir):
            columns.update(dict.fromkeys(record))
        header = _line(columns) if columns else ""
        replace_text(self._path, header + _rows(records(self._run_dir), list(columns)))
        self._columns = list(columns)


def _rows(records: Iterable[Mapping[str, float | None]], columns: Sequence[str]) -> str:
    return "".join(_line(_cell(record.get(key)) for key in columns) for record in records)


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: float | None) -> str:
    """Return a number such that it reads back as the same float; whole ones as integers."""
    if value is None or not math.isfinite(value):
        return ""
    return repr(float(value)).removesuffix(".0")
