"""The one run of every cell of a table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.conditions import COMMON, conditions
from rotograd_cli.tables.runs import Run, RunKey, varying


def one_per_cell(groups: Mapping[RunKey, Sequence[Run]]) -> tuple[dict[RunKey, Run], list[str]]:
    """Choose the run of every cell: a finished one, of several the newest, which a note says.

    Args:
        groups: Runs by cell.

    Returns:
        The runs, and the notes.

    Raises:
        ConfigError: If finished runs of one row (and task) differ in their settings, or those of
            one row in what they were measured on: their seeds would not be seeds of one thing.
    """
    finished = {key: [run for run in runs if run.is_finished] for key, runs in groups.items()}
    _check_one_setting(finished)
    _check_conditions(finished)
    chosen = {}
    notes = []
    for key, runs in groups.items():
        by_start = sorted(finished[key] or runs, key=lambda run: run.summary.started or "")
        newest = chosen[key] = by_start[-1]
        times = len(finished[key])
        if times > 1:
            notes.append(f"{key} was run {times} times; the newest counts, {newest.folder}.")
    return chosen, notes


def _check_one_setting(finished: Mapping[RunKey, Sequence[Run]]) -> None:
    by_row: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    for key, runs in finished.items():
        by_row[key.row, key.task] += runs
    for (row, _), runs in by_row.items():
        settings = [run.setting for run in runs]
        keys = varying(settings)
        if keys:
            values = dict.fromkeys(str(each.get(keys[0], "none")) for each in settings)
            others = f" and {len(keys) - 1} other keys" if len(keys) > 1 else ""
            raise ConfigError(
                f"The runs of row {row!r} must have the same settings, got {keys[0]} "
                f"{', '.join(values)}{others}; narrow `runs` to one of them."
            )


def _check_conditions(finished: Mapping[RunKey, Sequence[Run]]) -> None:
    folders: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
    for key, runs in finished.items():
        for run in runs:
            for name, text in conditions([run]).items():
                # runs of single tasks differ in these by nature
                if name in COMMON or key.task is None:
                    folders[key.row, name].setdefault(text, run.folder)
    for (row, name), by_text in folders.items():
        if len(by_text) > 1:
            values = ", ".join(f"{text} ({folder})" for text, folder in by_text.items())
            raise ConfigError(
                f"The runs of row {row!r} must be measured alike, got {name}: {values}; narrow "
                "`runs` to one of them."
            )
