"""The rows that a run needs: which of them can be read, and what the others were made from."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rotograd_cli.data.base import Preparation, readable
from rotograd_cli.data.filling import Make, WritableArrays
from rotograd_cli.data.prepared import Field, PreparedArrays, SourceFiles, ignore
from rotograd_cli.errors import DatasetError, hydra_value, listed, suggested


@dataclass(frozen=True)
class Rows:
    """The rows of one set of options, in one folder, and the files that they are made from."""

    title: str
    """Data set and options, as messages name them."""
    unit: str
    """What a row holds, in the plural."""
    root: Path
    """Folder of the prepared folders."""
    settings: Mapping[str, Any]
    """Plain values that decide the content of the rows, besides the files."""
    fields: Mapping[str, Field]
    """Arrays of a row."""
    files: Sequence[SourceFiles]
    """Source files of every row, in order."""
    source: Path
    """Folder of the source files; it may be absent once the rows are prepared."""
    remedy: str
    """How to prepare these rows, as messages say it."""
    restore: str
    """How to get absent source files."""
    kept: frozenset[str] | None = None
    """Files that are there, where they must be kept; None where rows are used without them."""

    def existing(self) -> PreparedArrays | None:
        """The prepared arrays, none of whose rows need be done; None if there are none."""
        folder = PreparedArrays.locate(self.root, self.settings)
        return PreparedArrays(folder) if folder.is_dir() else None

    def unprepared(self) -> list[SourceFiles]:
        """Source files of the rows that are not done."""
        return self._undone(self.existing())

    def open(self) -> PreparedArrays:
        """Return the arrays, every row done and made from the files that are there.

        Raises:
            DatasetError: If they are not.
        """
        arrays = self.existing()
        undone = self._undone(arrays)
        if arrays is None or undone:
            num_done = len(self.files) - len(undone)
            without = f", not {listed(_names(undone))}" if num_done else ""
            raise DatasetError(
                f"{self.title} is not prepared in {self.root} ({num_done:,} of "
                f"{len(self.files):,} {self.unit} are done{without}); {self.remedy}"
            )
        changed = arrays.compare(arrays.rows_of(self.files), self.source).changed
        for event, names in (("changed", changed), ("disappeared", self._lost(arrays))):
            if names:
                place = f"{listed(names)} in {self.source}"
                raise DatasetError(f"{place} {event} after they were prepared; {self.remedy}")
        return arrays

    def prepare(self, make: Make, how: Preparation) -> None:
        """Make the rows that are absent, damaged, or made from other files than are there.

        Args:
            make: Makes the content of a row.
            how: Number of threads, where to report.

        Raises:
            DatasetError: If a source file is absent, ``make`` raises it, or the disk is full.
        """
        existing = self.existing()
        faults, outdated = self._faults(existing, how)
        todo = set(self.files).intersection([*self._undone(existing), *outdated])
        total = f"{len(self.files):,} {self.unit}"
        if existing is not None and not todo and not outdated:
            how.say(f"{self.title} is complete: {total} in {existing.folder}")
            return
        self.check_sources(todo)
        why = f" ({'; '.join(faults)})" if faults else ""
        size = readable(len(todo) * sum(field.num_bytes for field in self.fields.values()))
        how.say(f"{self.title}: {len(todo):,} of {total} to prepare{why}; they need {size}")
        arrays = WritableArrays.create(self.root, self.settings, self.fields, self.files)
        arrays.forget(arrays.rows_of(outdated))
        rows = arrays.rows_of(self.files)
        progress = partial(how.progress, "preparing")
        arrays.fill(rows, make, source=self.source, workers=how.workers, progress=progress)
        how.say(f"{self.title} is prepared: {total} in {arrays.folder}")

    def check_sources(self, rows: Collection[SourceFiles]) -> None:
        """Refuse to make rows whose files are absent.

        Raises:
            DatasetError: If a file is absent.
        """
        names = sorted(name for files in rows for name in files)
        absent = [name for name in names if not (self.source / name).exists()]
        if absent:
            raise DatasetError(
                f"{self.source} must hold {len(rows):,} {self.unit} that are to be prepared, got "
                f"all but {len(absent):,} ({listed(absent)}); {self.restore}."
            )

    def look(self) -> str:
        """Read every row and every file that a row was made from; return what was found.

        Raises:
            DatasetError: If rows are absent or damaged, or files have changed.
        """
        arrays = self.existing()
        undone = self._undone(arrays)
        faults, _ = self._faults(arrays)
        num_done = len(self.files) - len(undone)
        new = [f"{len(undone):,} new: {listed(_names(undone))}"] if undone and num_done else []
        folder = self.root if arrays is None else arrays.folder
        result = f"{num_done:,} of {len(self.files):,} {self.unit} in {folder}"
        result = "; ".join([result, *faults, *new])
        if undone or faults:
            raise DatasetError(f"{result}; {self.remedy}")
        return f"{result}, checksums verified"

    def _faults(
        self, arrays: PreparedArrays | None, how: Preparation | None = None
    ) -> tuple[list[str], list[SourceFiles]]:
        """Read the rows that are done and their files.

        Args:
            arrays: Where the rows are.
            how: Where to report; the times of touched files are recorded then.

        Returns:
            What is wrong, one clause per kind of fault, and the files of the rows at fault.
        """
        if arrays is None:
            return [], []
        rows = arrays.rows_of(self.files)
        done = rows[arrays.is_done(rows)]
        damaged = arrays.damaged(done, partial(how.progress, "checking") if how else ignore)
        comparison = arrays.compare(done, self.source, thorough=True)
        if how and comparison.is_touched.any():
            with suppress(DatasetError):  # on a read-only disk they are read again next time
                WritableArrays(arrays.folder).remember_times(comparison)
        lost = self._lost(arrays)
        names = {
            "damaged": [arrays.files_of(row)[0] for row in damaged],
            "changed": comparison.changed,
            "missing": lost,
        }
        faults = [f"{len(x):,} {fault}: {listed(x)}" for fault, x in names.items() if x]
        lost_rows = arrays.rows_of([(name,) for name in lost])
        outdated = [*damaged, *comparison.changed_rows.tolist(), *lost_rows.tolist()]
        return faults, list(map(arrays.files_of, outdated))

    def _undone(self, arrays: PreparedArrays | None) -> list[SourceFiles]:
        if arrays is None:
            return list(self.files)
        is_done = arrays.is_done(arrays.rows_of(self.files))
        return [files for files, done in zip(self.files, is_done, strict=True) if not done]

    def _lost(self, arrays: PreparedArrays) -> list[str]:
        """Files of rows that are done which are no longer there and must be."""
        if self.kept is None:
            return []
        return [name for name in arrays.done_files() if name not in self.kept]


def _names(rows: Sequence[SourceFiles]) -> list[str]:
    return [files[0] for files in rows]


def data_command(action: str, name: str, data_dir: Path, *options: str) -> str:
    """Return a ``rotograd data`` command, quoted for the shell.

    Args:
        action: ``check`` or ``prepare``.
        name: Data set; empty for all of them.
        data_dir: Data root; left out where it is the default.
        options: Further arguments, as Hydra or the command reads them.
    """
    arguments = ["data", action, *filter(None, [name]), *options]
    if data_dir != Path(os.environ.get("ROTOGRAD_DATA", "data")).expanduser():
        arguments.append(f"paths.data_dir={hydra_value(str(data_dir))}")
    return suggested(*arguments)
