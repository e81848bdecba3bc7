"""What stands below a table: everything that a reader needs to judge its numbers."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rotograd_cli.runs.report import remarks
from rotograd_cli.tables import delta, statistics
from rotograd_cli.tables.conditions import COMMON, PROTOCOL, TASKS, alike, notes_of
from rotograd_cli.tables.parts import Row
from rotograd_cli.tables.results import Results
from rotograd_cli.tables.runs import Run, varying
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import row_label

MAX_NAMED = 5
"""Tasks that a footnote lists."""


def footnotes(
    spec: TableSpec,
    results: Results,
    rows: Sequence[Row],
    statistic: str,
    reference: str | None,
    notes: Sequence[str],
) -> list[str]:
    """Return the sentences below a table.

    Args:
        spec: Table.
        results: Its results.
        rows: Its rows.
        statistic: Statistic over seeds.
        reference: Label of the row that others are compared with, if they are.
        notes: More sentences.

    Returns:
        Statistic, convention of the gains, comparison, protocol, budget, settings, machine, data,
        wall time, notes of the data sets, provenance of the printed numbers, gaps.
    """
    runs = results.runs
    return [
        f"{statistics.DESCRIPTIONS[statistic]} over {_seeds(results)}.",
        *_delta_note(spec, results),
        *_comparison_note(reference, rows),
        *(_run_notes(results, runs) if runs else ["There is no finished run."]),
        *_conditions(spec, results),
        *remarks(note for run in runs for note in notes_of(run)),
        *_paper_notes(spec),
        *spec.notes,
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
    base = "" if spec.base is None else row_label(spec, spec.base)
    note = delta.DESCRIPTIONS[str(spec.delta)].format(base=base)
    if spec.delta != "nash":
        return [note]
    protocols = {r.conditions[PROTOCOL] for row in results.rows.values() for r in row.values()}
    others = sorted(protocols - {delta.NASH_PROTOCOL})
    if others:
        note += f" Warning: these runs have protocol {' / '.join(others)}, not the constants'."
    return [note]


def _comparison_note(reference: str | None, rows: Sequence[Row]) -> list[str]:
    if reference is None:
        return []
    level = 100 * statistics.LEVEL
    text = (
        f"Differences from {reference}: mean over common seeds [95 % bootstrap interval], p of the "
        "sign-flip test after Holm's correction over the rows of the column; "
        f"▲ better, ▼ worse at {level:g} %, where no seed is missing."
    )
    smallest = _smallest_p(rows)
    if smallest > statistics.LEVEL:
        text += (
            f" With so few seeds for so many rows no such p can be below {smallest:.2g}: no mark "
            "is possible."
        )
    return [text]


def _smallest_p(rows: Sequence[Row]) -> float:
    """The smallest corrected p that any column could have, given its seeds and its rows."""
    smallest = 1.0
    for column in rows[0].cells:
        differences = [row.cells[column].difference for row in rows]
        seeds = [difference.num_seeds for difference in differences if difference is not None]
        if seeds:
            smallest = min(smallest, len(seeds) * statistics.smallest_p(max(seeds)))
    return smallest


def _run_notes(results: Results, runs: Sequence[Run]) -> list[str]:
    protocols = _distinct(run.summary.protocol for run in runs)
    names = ", ".join(_distinct(run.summary.data for run in runs))
    prints = ", ".join(_distinct(run.summary.data_fingerprint for run in runs))
    seconds = sum(run.summary.wall_s or 0.0 for run in runs)
    wall = f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return [
        *(f"Protocol: {text}." for text in protocols),
        _budget(runs),
        *differing_settings(results),
        *_machine(runs),
        f"Data: {names}, fingerprint {prints or 'unknown'}.",
        f"Wall time of the {len(runs)} runs together: {wall}.",
    ]


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _budget(runs: Sequence[Run]) -> str:
    epochs = ", ".join(_distinct(run.summary.epochs for run in runs))
    sizes = ", ".join(_distinct((run.section("train") or {}).get("batch_size") for run in runs))
    return f"Epochs: {epochs}; batch size {sizes}." if sizes else f"Epochs: {epochs}."


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
            rows: dict[str, dict[str, None]] = defaultdict(dict)
            for row, setting in settings:
                rows[str(setting.get(key, "none"))][row] = None
            values = [f"{value} ({', '.join(names)})" for value, names in rows.items()]
            notes.append(f"{key}: {'; '.join(values)}.")
    return notes


def _machine(runs: Sequence[Run]) -> list[str]:
    devices = ", ".join(_distinct(run.summary.device for run in runs))
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for package, version in run.summary.versions.items():
            versions[package][version] = None
    listed = ", ".join(f"{name} {' / '.join(texts)}" for name, texts in versions.items())
    commits = [_commit(run.summary.commit or "") for run in runs]
    source = ", ".join(filter(None, dict.fromkeys(commits)))
    return [
        f"Device: {devices or 'unknown'}.",
        f"Versions: {listed}{f'; commit {source}' if source else ''}.",
    ]


def _commit(text: str) -> str:
    """A commit in short, with a plus where the source was changed."""
    return text[:12] + ("+" if text.endswith("+") else "")


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
    over_tasks = [c for c in spec.columns.values() if c.metric is not None and "/" not in c.metric]
    if over_tasks and len(who[TASKS]) > 1:
        notes.append(
            "Numbers over different tasks are neither ranked nor compared: "
            f"{'; '.join(who[TASKS])}."
        )
    return notes


def _who(spec: TableSpec, results: Results, key: str) -> list[str]:
    """The values of a condition, each with the rows that have it, or with seeds of a row."""
    rows: dict[str, dict[str, None]] = defaultdict(dict)
    for row, seeds in results.rows.items():
        is_same = alike((result.conditions for result in seeds.values()), [key])
        for seed, result in seeds.items():
            name = row_label(spec, row) + ("" if is_same else f" seed {seed}")
            rows[result.conditions[key]][name] = None
    return [f"{_shortened(value)} ({', '.join(names)})" for value, names in rows.items()]


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
            reasons: dict[str, list[int]] = defaultdict(list)
            for seed, reason in missing.items():
                reasons[reason].append(seed)
            why = "; ".join(f"seed {_joined(seeds)}: {text}" for text, seeds in reasons.items())
            count = f"{len(results.rows[row])} of {len(results.seeds)} seeds"
            lines.append(f"Incomplete: {row_label(spec, row)}, {count} ({why}).")
    return lines


def _joined(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
