"""What stands below a table: everything that a reader needs to judge its numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rotograd_cli.runs.report import remarks
from rotograd_cli.tables import delta, statistics
from rotograd_cli.tables.conditions import COMMON, PROTOCOL, TASKS, alike
from rotograd_cli.tables.results import Missing, Results, all_summaries
from rotograd_cli.tables.settings import differing_settings
from rotograd_cli.tables.spec import TableSpec, row_label

MAX_NAMED = 5
"""Tasks that a footnote lists."""


def footnotes(
    spec: TableSpec,
    results: Results,
    missing: Missing,
    statistic: str,
    reference: str | None,
    smallest_p: float,
    notes: Sequence[str],
) -> list[str]:
    """Sentences below a table.

    Args:
        spec: Table.
        results: Results by row and seed.
        missing: Why a seed of a row has no result.
        statistic: Statistic over seeds.
        reference: Label of the row that others are compared with, if they are.
        smallest_p: The smallest corrected p that their numbers allow.
        notes: More sentences.

    Returns:
        The sentences: statistic, convention of the gains, comparison, protocol, budget, machine,
        data, wall time, notes of the data sets, provenance of the printed numbers, gaps.
    """
    runs = all_summaries(results)
    return [
        f"{statistics.DESCRIPTIONS[statistic]} over {_seeds(results)}.",
        *_delta_note(spec, results),
        *_comparison_note(reference, smallest_p),
        *(_run_notes(results, runs) if runs else ["There is no finished run."]),
        *_conditions(spec, results),
        *remarks(note for run in runs for note in run.get("notes", ())),
        *_paper_notes(spec),
        *spec.notes,
        *notes,
        *_gaps(spec, results, missing),
    ]


def _seeds(results: Results) -> str:
    seeds = sorted({seed for row in results.values() for seed in row})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)} seeds ({seeds[0]}-{seeds[-1]})"
    noun = "seed" if len(seeds) == 1 else "seeds"
    return f"{len(seeds)} {noun} ({', '.join(map(str, seeds))})" if seeds else "0 seeds"


def _delta_note(spec: TableSpec, results: Results) -> list[str]:
    if all(column.delta_of is None for column in spec.columns.values()):
        return []
    base = "" if spec.base is None else row_label(spec, spec.base)
    note = delta.DESCRIPTIONS[str(spec.delta)].format(base=base)
    found = {r.conditions[PROTOCOL] for seeds in results.values() for r in seeds.values()}
    others = found - {delta.NASH_PROTOCOL} if spec.delta == "nash" else set()
    if others:
        note += (
            f" Warning: these runs have protocol {' / '.join(sorted(others))}, not the constants'."
        )
    return [note]


def _comparison_note(reference: str | None, smallest_p: float) -> list[str]:
    if reference is None:
        return []
    level = 100 * statistics.LEVEL
    text = (
        f"Differences from {reference}: mean over common seeds [95 % bootstrap interval], p of the "
        "sign-flip test after Holm's correction over the rows of the column; "
        f"▲ better, ▼ worse at {level:g} %, where no seed is missing."
    )
    if smallest_p > statistics.LEVEL:
        text += (
            f" With so few seeds for so many rows no such p can be below {smallest_p:.2g}: no mark "
            "is possible."
        )
    return [text]


def _run_notes(results: Results, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [f"Protocol: {text}." for text in _distinct(run.get("protocol") for run in runs)]
    notes += _budget(runs)
    notes += differing_settings(results)
    notes += _machine(runs)
    notes += _data(runs)
    seconds = sum(float(run.get("wall_s", 0.0)) for run in runs)
    wall = f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    return [*notes, f"Wall time of the {len(runs)} runs together: {wall}."]


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _budget(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    epochs = _distinct(run.get("epochs") for run in runs)
    sizes = _distinct(run.get("config", {}).get("train", {}).get("batch_size") for run in runs)
    text = f"Epochs: {', '.join(epochs)}"
    return [f"{text}; batch size {', '.join(sizes)}." if sizes else f"{text}."]


def _machine(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    devices = _distinct(run.get("device") for run in runs)
    versions: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for package, version in run.get("versions", {}).items():
            if version not in versions[package]:
                versions[package].append(version)
    commits = _distinct((run.get("commit") or "")[:12] + _changed(run) for run in runs)
    listed = ", ".join(f"{name} {' / '.join(found)}" for name, found in versions.items())
    source = ", ".join(filter(None, commits))
    return [
        f"Device: {', '.join(devices) or 'unknown'}.",
        f"Versions: {listed}{f'; commit {source}' if source else ''}.",
    ]


def _changed(run: Mapping[str, Any]) -> str:
    return "+" if (run.get("commit") or "").endswith("+") else ""


def _data(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    prints = _distinct(run.get("data_fingerprint") for run in runs)
    names = ", ".join(_distinct(run.get("data") for run in runs))
    return [f"Data: {names}, fingerprint {', '.join(prints) or 'unknown'}."]


def _conditions(spec: TableSpec, results: Results) -> list[str]:
    """What rows were measured on, where it is not the same for all."""
    notes = []
    found = {key: _who(spec, results, key) for key in (*COMMON, TASKS)}
    unlike = [f"{key}: {'; '.join(found[key])}" for key in COMMON if len(found[key]) > 1]
    if unlike:
        notes.append(
            "Warning: what was not measured alike is neither ranked nor compared, and has no gain. "
            f"{'. '.join(unlike)}."
        )
    over_tasks = [c for c in spec.columns.values() if c.metric is not None and "/" not in c.metric]
    if over_tasks and len(found[TASKS]) > 1:
        notes.append(
            "Numbers over different tasks are neither ranked nor compared: "
            f"{'; '.join(found[TASKS])}."
        )
    return notes


def _who(spec: TableSpec, results: Results, key: str) -> list[str]:
    """The values of a condition, each with the rows that have it, or with seeds of a row."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row, seeds in results.items():
        is_same = alike((result.conditions for result in seeds.values()), [key])
        for seed, result in seeds.items():
            name = row_label(spec, row) + ("" if is_same else f" seed {seed}")
            if name not in rows[result.conditions[key]]:
                rows[result.conditions[key]].append(name)
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


def _gaps(spec: TableSpec, results: Results, missing: Missing) -> list[str]:
    lines = []
    for row, seeds in missing.items():
        if seeds:
            found = len(results.get(row, {}))
            reasons: dict[str, list[int]] = defaultdict(list)
            for seed, reason in seeds.items():
                reasons[reason].append(seed)
            why = "; ".join(f"seed {_list(s)}: {reason}" for reason, s in reasons.items())
            total = found + len(seeds)
            lines.append(f"Incomplete: {row_label(spec, row)}, {found} of {total} seeds ({why}).")
    return lines


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
