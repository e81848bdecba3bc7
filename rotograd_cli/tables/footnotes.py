"""What stands below a table: everything that a reader needs to judge its numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.errors import override_value
from rotograd_cli.runs.terminal import remarks
from rotograd_cli.tables import delta, statistics
from rotograd_cli.tables.kinds import column_notes
from rotograd_cli.tables.omissions import omission_notes
from rotograd_cli.tables.parts import Detail, Omission, Table
from rotograd_cli.tables.results import Results
from rotograd_cli.tables.runs import COMPARED, PROTOCOL, TASKS, Run, alike, grouped, varying
from rotograd_cli.tables.seeds import shortened
from rotograd_cli.tables.spec import TableSpec

MAX_NAMED = 5
"""Tasks that a footnote lists."""


def footnotes(
    spec: TableSpec,
    results: Results,
    table: Table,
    omitted: Sequence[Omission],
    notes: Sequence[str],
) -> list[str]:
    """Return the sentences below a table.

    Args:
        spec: Table.
        results: Its results.
        table: What was computed of them, without footnotes.
        omitted: Values that its cells, or those of empty columns, leave out.
        notes: More sentences.

    Returns:
        What a reader must know: statistic, convention of the gains, kinds of columns, comparison,
        protocol, what was not measured alike, notes of the data sets, provenance of the printed
        numbers, gaps. The record, as :class:`~rotograd_cli.tables.parts.Detail`: budget, settings,
        machine, versions, data, wall time.
    """
    runs = results.runs
    return [
        f"{statistics.DESCRIPTIONS[table.statistic]} over {_seeds(results)}.",
        *_delta_note(spec, results),
        *column_notes(spec),
        *_comparison_note(table),
        *(f"Protocol: {text}." for text in _distinct(run.summary.protocol for run in runs)),
        *([] if runs else ["There is no finished run."]),
        *_unnamed_differences(spec, results),
        *_conditions(spec, results),
        *remarks(note for run in runs for note in run.notes),
        *_paper_notes(spec),
        *spec.notes,
        *omission_notes(omitted, spec.label),
        *notes,
        *_gaps(spec, results),
        *(Detail(text) for text in _record(spec, results, runs)),
    ]


def _seeds(results: Results) -> str:
    seeds = sorted({seed for row in results.rows.values() for seed in row})
    return f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} ({shortened(seeds) or 'none'})"


def _joined(values: Iterable[Any], default: str = "unknown") -> str:
    """The distinct values, without None."""
    return ", ".join(_distinct(values)) or default


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _delta_note(spec: TableSpec, results: Results) -> list[str]:
    if all(column.delta_of is None for column in spec.columns.values()):
        return []
    base = "" if spec.base is None else spec.label(spec.base)
    note = delta.DESCRIPTIONS[str(spec.delta)].format(base=base)
    protocols = {r.conditions[PROTOCOL] for row in results.rows.values() for r in row.values()}
    others = sorted(protocols - {delta.NASH_PROTOCOL})
    if spec.delta != "nash" or not others:
        return [note]
    return [
        note,
        f"Warning: Δ compares runs of protocol {' / '.join(others)} with constants of protocol "
        f"{delta.NASH_PROTOCOL}.",
    ]


def _comparison_note(table: Table) -> list[str]:
    if table.compare_with is None:
        return []
    level = f"{100 * statistics.LEVEL:g} %"
    text = (
        f"Difference from {table.compare_with}, seed by seed: mean [95 % bootstrap interval], p of "
        "a sign-flip test, corrected for the number of rows (Holm). ▲ better, ▼ worse at "
        f"{level}; rows with missing seeds get no mark."
    )
    smallest = _smallest_p(table)
    if smallest <= statistics.LEVEL:
        return [text]
    few = (
        f"So few seeds show no difference at {level}, whatever their intervals say: the smallest "
        f"possible p is {smallest:.2g}."
    )
    return [text, few]


def _smallest_p(table: Table) -> float:
    """The smallest corrected p that any column could have, given its seeds and its rows."""
    smallest = 1.0
    for column in table.columns:
        differences = [row.cells[column.name].difference for row in table.rows]
        seeds = [difference.num_seeds for difference in differences if difference is not None]
        if seeds:
            smallest = min(smallest, len(seeds) * statistics.smallest_p(max(seeds)))
    return smallest


def _record(spec: TableSpec, results: Results, runs: Sequence[Run]) -> list[str]:
    """How the numbers were made; nothing without a run."""
    if not runs:
        return []
    summaries = [run.summary for run in runs]
    versions = grouped(item for summary in summaries for item in summary.versions.items())
    packages = [f"{name} {' / '.join(texts)}" for name, texts in versions.items()]
    # a commit in short, with a plus where the source was changed
    commits = [re.sub(r"^(.{12}).*?(\+?)$", r"\1\2", s.commit) for s in summaries if s.commit]
    sizes = _joined(run.config["train"].get("batch_size") for run in runs)
    seconds = sum(summary.wall_s or 0.0 for summary in summaries)
    wall = f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return [
        f"Epochs: {_joined(s.epochs for s in summaries)}; batch size {sizes}.",
        *differing_settings(spec, results),
        f"Device: {_joined(s.device for s in summaries)}.",
        f"Versions: {', '.join(packages)}; commit {_joined(commits)}.",
        f"Data: {_joined(s.data for s in summaries)}, "
        f"fingerprint {_joined(s.data_fingerprint for s in summaries)}.",
        f"Wall time of the {len(runs)} runs together: {wall}.",
    ]


def differing_settings(spec: TableSpec, results: Results) -> list[str]:
    """Return a sentence per setting that differs between rows besides the method: who has what."""
    settings = _settings(spec, results)
    notes = []
    for key in _differing(settings):
        rows = grouped(
            (override_value(each[key]) if key in each else "none", row) for row, each in settings
        )
        notes.append(f"{key}: {_who_has_what(rows.items())}.")
    return notes


def _settings(spec: TableSpec, results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    """Row and setting of every run."""
    return [
        (spec.label(row), run.setting)
        for row, seeds in results.rows.items()
        for result in seeds.values()
        for run in result.runs
    ]


def _differing(settings: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Settings that differ between runs, the method's own aside."""
    keys = varying(setting for _, setting in settings)
    return [key for key in keys if not key.startswith("method.")]


def _unnamed_differences(spec: TableSpec, results: Results) -> list[str]:
    """In what rows differ that neither their name nor the table's grid says.

    What a row declares itself is left out, but for how long and on what it trains.
    """
    declared = set() if spec.grid is None else set(spec.grid.values)
    for row in spec.rows.values():
        keys = [override.partition("=")[0].lstrip("+~") for override in row.overrides]
        declared.update(key for key in keys if not key.startswith(("train.", "data.")))
    names = " ".join(map(spec.label, spec.rows))  # of rows made up from runs: RotoGrad, KEY=VALUE
    differing = _differing(_settings(spec, results))
    keys = [key for key in differing if key not in declared and not _is_named(key, names)]
    if not keys:
        return []
    return [f"Settings in which rows differ besides the method: {', '.join(keys)}."]


def _is_named(key: str, names: str) -> bool:
    """Whether names of rows give a value to a key or to the component that it is an option of."""
    parts = key.split(".")
    return any(f", {'.'.join(parts[:n])}=" in names for n in range(1, len(parts) + 1))


def _who_has_what(values: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Every value with the names that have it: ``0.001 (vanilla); 0.002 (other)``."""
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values)


def _conditions(spec: TableSpec, results: Results) -> list[str]:
    """What rows were measured on, where it is not the same for all."""
    everything = [result for seeds in results.rows.values() for result in seeds.values()]
    differing = [
        key
        for key in (*COMPARED, PROTOCOL, TASKS)
        if not alike((result.conditions for result in everything), [key])
    ]
    unlike = [f"{key}: {_who(spec, results, key)}" for key in differing if key in COMPARED]
    notes = []
    if unlike:
        notes.append(
            "Warning: rows that were not measured alike are neither ranked nor compared, and have "
            f"no gain. {'. '.join(unlike)}."
        )
    if PROTOCOL in differing:
        protocols = _who(spec, results, PROTOCOL)
        notes.append(
            "Numbers of different protocols stand in columns of their own, named by the protocol: "
            f"{protocols}."
        )
    if TASKS in differing and any(column.is_over_tasks for column in spec.columns.values()):
        tasks = _who(spec, results, TASKS)
        notes.append(f"Means over different tasks are neither ranked nor compared. Tasks: {tasks}.")
    return notes


def _who(spec: TableSpec, results: Results, key: str) -> str:
    """The values of a condition, each with the rows that have it, or with seeds of a row."""
    pairs = []
    for row, seeds in results.rows.items():
        is_same = alike((result.conditions for result in seeds.values()), [key])
        for seed, result in seeds.items():
            name = spec.label(row) + ("" if is_same else f" seed {seed}")
            pairs.append((result.conditions[key], name))
    return _who_has_what((_shortened(value), names) for value, names in grouped(pairs).items())


def _shortened(names: str) -> str:
    """A list of tasks, of many the first ones and their number."""
    first = names.split(", ")
    return names if len(first) <= MAX_NAMED else f"{', '.join(first[:3])}, … ({len(first)})"


def _paper_notes(spec: TableSpec) -> list[str]:
    if spec.paper is None:
        return []
    source = spec.paper.source.rstrip(".")
    return [f"(paper): printed numbers, {source}.", *spec.paper.notes]


def _gaps(spec: TableSpec, results: Results) -> list[str]:
    lines = []
    for row, missing in results.missing.items():
        if missing:
            reasons = grouped((reason, seed) for seed, reason in missing.items())
            why = "; ".join(f"seed {_joined(seeds)}: {text}" for text, seeds in reasons.items())
            count = f"{len(results.rows[row])} of {len(results.seeds)} seeds"
            lines.append(f"Incomplete: {spec.label(row)}, {count} ({why}).")
    return lines
