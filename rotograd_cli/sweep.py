"""The end of a sweep: what became of every cell."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rotograd_cli.report import print_table, read_summary, sweep_table

failures: list[str] = []
"""Cells of the sweeps of this process that did not finish; the exit code depends on it."""


class SweepStatus(Callback):
    """Hydra callback that prints status and test metrics of every cell."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the cells' summaries below the sweep's directory, so every launcher is served."""
        del kwargs
        sweep_dir = Path(config.hydra.sweep.dir)
        cells = sorted(
            (path for path in sweep_dir.iterdir() if path.is_dir()),
            key=lambda path: (len(path.name), path.name),
        )
        summaries = [(cell.name, read_summary(cell)) for cell in cells]
        print_table(sweep_table(summaries))
        for cell, summary in summaries:
            if (summary or {}).get("status") != "finished":
                failures.append(f"{sweep_dir / cell}: {(summary or {}).get('error', 'no result')}")
