"""What stands below a table: everything that a reader needs to judge its numbers."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rotograd_cli.runs.report import remarks
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables import delta, statistics
from rotograd_cli.tables.parts import Table
from rotograd_cli.tables.results import Results
from rotograd_cli.tables.runs import COMMON, PROTOCOL, TASKS, Run, alike, grouped, varying
from rotograd_cli.tables.spec import TableSpec

MAX_NAMED = 5
"""Tasks that a footnote lists."""
SHORT_CELLS = (
    "Cells that count fewer seeds than their row are neither ranked nor marked: a value is not a "
    "finite number; a gain's base is 0, missing or not measured alike."
)


def footnotes(spec: TableSpec, results: Results, table: Table, notes: Sequence[str]) -> list[str]:
    """Return the sentences below a table.

    Args:
        spec: Table.
        results: Its results.
        table: What was computed of them, without footnotes.
        notes: More sentences.

    Returns:
        Statistic, convention of the gains, comparison, protocol, budget, settings, machine, data,
        wall time, notes of the data sets, provenance of the printed numbers, gaps.
    """
    runs = results.runs
    return [
        f"{statistics.DESCRIPTIONS[table.statistic]} over {_seeds(results)}.",
        *_delta_note(spec, results),
        *_comparison_note(table),
        *(_run_notes(results, runs) if runs else ["There is no finished run."]),
        *_conditions(spec, results),
        *remarks(note for run in runs for note in run.notes),
        *_paper_notes(spec),
        *spec.notes,
        *_short_cells(table),
        *notes,
        *_gaps(spec, results),
    ]


def _seeds(results: Results) -> str:
    seeds = sorted({seed for row in results.rows.values() for seed in row})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)} seeds ({seeds[0]}-{seeds[-1]})"
    noun = "seed" if len(seeds) == 1 else "seeds"
    return f"{len(seeds)} {noun} ({_joined(seeds)})" if seeds else "0 seeds"


def _delta_note(spec: TableSpec, results: Results) -> list[str]:
    if all(column.delta_of is None for column in spec.columns.values()):
        return []
    base = "" if spec.base is None else spec.label(spec.base)
    note = delta.DESCRIPTIONS[str(spec.delta)].format(base=base)
    if spec.delta != "nash":
        return [note]
    protocols = {r.conditions[PROTOCOL] for row in results.rows.values() for r in row.values()}
    others = sorted(protocols - {delta.NASH_PROTOCOL})
    if others:
        note += f" Warning: these runs have protocol {' / '.join(others)}, not the constants'."
    return [note]


def _comparison_note(table: Table) -> list[str]:
    if table.compare_with is None:
        return []
    text = (
        f"Differences from {table.compare_with}: mean over common seeds [95 % bootstrap interval], "
        "p of the sign-flip test after Holm's correction over the rows of the column; "
        f"▲ better, ▼ worse at {100 * statistics.LEVEL:g} %, where no seed is missing."
    )
    smallest = _smallest_p(table)
    if smallest > statistics.LEVEL:
        text += (
            f" With so few seeds for so many rows no such p can be below {smallest:.2g}: no mark "
            "is possible."
        )
    return [text]


def _smallest_p(table: Table) -> float:
    """The smallest corrected p that any column could have, given its seeds and its rows."""
    smallest = 1.0
    for column in table.columns:
        differences = [row.cells[column.name].difference for row in table.rows]
        seeds = [difference.num_seeds for difference in differences if difference is not None]
        if seeds:
            smallest = min(smallest, len(seeds) * statistics.smallest_p(max(seeds)))
    return smallest


def _short_cells(table: Table) -> list[str]:
    """The sentence that says which seeds of a row a cell leaves out; none without such cells."""
    names = []
    for column in table.columns:
        for row in table.rows:
            values = row.cells[column.name].values
            if row.cells[column.name].note is not None:
                left_out = [s for s in table.seeds if s not in values and s not in row.missing]
                names.append(f"{row.label}, {column.label} without seed {_joined(left_out)}")
    return [f"{SHORT_CELLS} {'; '.join(names)}."] if names else []


def _run_notes(results: Results, runs: Sequence[Run]) -> list[str]:
    summaries = [run.summary for run in runs]
    protocols = _distinct(summary.protocol for summary in summaries)
    epochs = ", ".join(_distinct(summary.epochs for summary in summaries))
    sizes = ", ".join(_distinct((run.section("train") or {}).get("batch_size") for run in runs))
    devices = ", ".join(_distinct(summary.device for summary in summaries))
    names = ", ".join(_distinct(summary.data for summary in summaries))
    prints = ", ".join(_distinct(summary.data_fingerprint for summary in summaries))
    seconds = sum(summary.wall_s or 0.0 for summary in summaries)
    wall = f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return [
        *(f"Protocol: {text}." for text in protocols),
        f"Epochs: {epochs}{f'; batch size {sizes}' if sizes else ''}.",
        *differing_settings(results),
        f"Device: {devices or 'unknown'}.",
        _versions(summaries),
        f"Data: {names}, fingerprint {prints or 'unknown'}.",
        f"Wall time of the {len(runs)} runs together: {wall}.",
    ]


def _versions(summaries: Sequence[RunSummary]) -> str:
    versions = grouped(item for summary in summaries for item in summary.versions.items())
    listed = ", ".join(f"{name} {' / '.join(texts)}" for name, texts in versions.items())
    # a commit in short, with a plus where the source was changed
    commits = [re.sub(r"^(.{12}).*?(\+?)$", r"\1\2", s.commit) for s in summaries if s.commit]
    source = ", ".join(dict.fromkeys(commits))
    return f"Versions: {listed}{f'; commit {source}' if source else ''}."


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def differing_settings(results: Results) -> list[str]:
    """Return a sentence per setting that differs between rows besides the method: who has what."""
    settings = [
        (row, run.setting)
        for row, seeds in results.rows.items()
        for result in seeds.values()
        for run in result.runs
    ]
    notes = []
    for key in varying(setting for _, setting in settings):
        if not key.startswith("method."):
            rows = grouped((str(setting.get(key, "none")), row) for row, setting in settings)
            values = [f"{value} ({', '.join(names)})" for value, names in rows.items()]
            notes.append(f"{key}: {'; '.join(values)}.")
    return notes


def _conditions(spec: TableSpec, results: Results) -> list[str]:
    """What rows were measured on, where it is not the same for all."""
    notes = []
    who = {key: _who(spec, results, key) for key in (*COMMON, TASKS)}
    unlike = [f"{key}: {'; '.join(who[key])}" for key in COMMON if len(who[key]) > 1]
    if unlike:
        notes.append(
            "Warning: what was not measured alike is neither ranked nor compared, and has no gain. "
            f"{'. '.join(unlike)}."
        )
    over_tasks = any(column.is_over_tasks for column in spec.columns.values())
    if over_tasks and len(who[TASKS]) > 1:
        numbers = "Numbers over different tasks are neither ranked nor compared"
        notes.append(f"{numbers}: {'; '.join(who[TASKS])}.")
    return notes


def _who(spec: TableSpec, results: Results, key: str) -> list[str]:
    """The values of a condition, each with the rows that have it, or with seeds of a row."""
    pairs = []
    for row, seeds in results.rows.items():
        is_same = alike((result.conditions for result in seeds.values()), [key])
        for seed, result in seeds.items():
            name = spec.label(row) + ("" if is_same else f" seed {seed}")
            pairs.append((result.conditions[key], name))
    values = grouped(pairs).items()
    return [f"{_shortened(value)} ({', '.join(names)})" for value, names in values]


def _shortened(names: str) -> str:
    """A list of tasks, of many the first ones and their number."""
    first = names.split(", ")
    return names if len(first) <= MAX_NAMED else f"{', '.join(first[:3])}, … ({len(first)})"


def _paper_notes(spec: TableSpec) -> list[str]:
    if spec.paper is None:
        return []
    source = spec.paper.source.rstrip(".")
    return [f"Columns (paper): printed numbers, {source}.", *spec.paper.notes]


def _gaps(spec: TableSpec, results: Results) -> list[str]:
    lines = []
    for row, missing in results.missing.items():
        if missing:
            reasons = grouped((reason, seed) for seed, reason in missing.items())
            why = "; ".join(f"seed {_joined(seeds)}: {text}" for text, seeds in reasons.items())
            count = f"{len(results.rows[row])} of {len(results.seeds)} seeds"
            lines.append(f"Incomplete: {spec.label(row)}, {count} ({why}).")
    return lines


def _joined(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
