"""Test metrics of a sweep as a Markdown table: a row per method, mean ± std over seeds.

python scripts/summarise_sweep.py multirun/2026-11-23_18-18-30-000000
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rotograd_cli.report import column_head, read_summary, remarks, shown_metrics


def main(sweep_dir: Path) -> None:
    """Prints the table; refuses a sweep with cells that did not finish."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    folders = [path for path in sweep_dir.iterdir() if path.is_dir()]
    for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):
        summary = read_summary(folder)
        if summary is None or summary["status"] != "finished":
            sys.exit(f"{folder} did not finish; a table with missing seeds would mislead.")
        runs[summary["method"]].append(summary)
    specs = shown_metrics(next(iter(runs.values()))[:1])
    names = [column_head(key, spec) for key, spec in specs.items()]
    print("| method | " + " | ".join(names) + " | geometric mean of losses ↓ | seeds |")
    print("| --- " * (len(names) + 3) + "|")
    for method, summaries in runs.items():
        cells = [cell(summaries, f"test/{key}", spec["percent"]) for key, spec in specs.items()]
        cells.append(cell(summaries, "test/geomean_loss", False))
        print(f"| {method} | " + " | ".join(cells) + f" | {len(summaries)} |")
    for line in remarks([summary for summaries in runs.values() for summary in summaries]):
        print(f"\n{line}")


def cell(summaries: list[dict[str, Any]], key: str, percent: bool) -> str:
    """Mean ± sample standard deviation, two decimals from 1 on, four below."""
    values = [summary["metrics"][key] * (100 if percent else 1) for summary in summaries]
    digits = 2 if max(values) >= 1 else 4
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {std:.{digits}f}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/summarise_sweep.py SWEEP_DIR")
    main(Path(sys.argv[1]))
