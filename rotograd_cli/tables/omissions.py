"""Why values are left out of the cells of a table, and the sentences that say so."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rotograd_cli.errors import listed
from rotograd_cli.runs.terminal import metric_name
from rotograd_cli.tables.columns import Content, Kind, Source
from rotograd_cli.tables.parts import Detail, Omission
from rotograd_cli.tables.runs import grouped
from rotograd_cli.tables.seeds import shortened

if TYPE_CHECKING:  # imports torch
    from rotograd_cli.tables.results import Results

ZERO_BASE = "No gain where the base is 0"
NO_BASE = "No gain where the base has no result"
OTHER_BASE = "No gain where the base is of another protocol"
UNLIKE = "No gain where row and base were not measured on the same data or examples"
NO_FIRST = "No gain where the first evaluation cannot be read"
NOT_FINITE = "Not a finite number"
OTHER_PROTOCOL = "Seeds of another protocol, which stand in a column of their own"
NOT_MEASURED = "Not measured"
MAX_NAMED = 3


def omissions(
    kind: Kind, row: str, content: Content, source: Source, results: "Results"
) -> Iterator[Omission]:
    """Yield why seeds of a row that have a result do not count in a column.

    Args:
        kind: Column.
        row: Row.
        content: What the column shows.
        source: What it is made of; ``results``, or those of one protocol.
        results: All results.
    """
    known = content.omitted.get(row, [])
    for each in known:
        is_of_other = each.reason == NO_BASE and each.seed in results.rows.get(each.row, {})
        yield dataclasses.replace(each, reason=OTHER_BASE) if is_of_other else each
    values = content.values[row]
    finite = {seed for seed, value in values.items() if math.isfinite(value)}
    told = finite.union(each.seed for each in known)
    for seed in sorted(set(results.rows[row]) - told) if values else ():
        if seed not in source.rows[row]:
            yield Omission(OTHER_PROTOCOL, row, kind.label, seed)
        else:
            reason = NOT_FINITE if seed in values else NOT_MEASURED
            yield Omission(reason, row, metric_name(str(kind.spec.metric)), seed)


def omission_notes(omissions: Iterable[Omission], label: Callable[[str], str]) -> list[str]:
    """Return a short sentence for each reason; where it names not all, also the whole list.

    Args:
        omissions: Values that are left out; the same one may come from several cells.
        label: Name of a row.
    """
    notes = []
    for reason, several in grouped((each.reason, each) for each in omissions).items():
        seeds = grouped((f"{label(each.row)} {each.what}".strip(), each.seed) for each in several)
        names = [f"{name} ({_seeds(sorted(numbers))})" for name, numbers in seeds.items()]
        notes.append(f"{reason}: {listed(names, MAX_NAMED)}.")
        if len(names) > MAX_NAMED:
            notes.append(Detail(f"{reason}, all {len(names)}: {', '.join(names)}."))
    return notes


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {shortened(seeds)}"
