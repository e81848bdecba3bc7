"""``rotograd report``: which page is written, and where."""

import os
from collections.abc import Sequence
from pathlib import Path

from rotograd_cli.config.schema import ReportConfig
from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_text
from rotograd_cli.report.comparison import comparison_page
from rotograd_cli.report.page import check_libraries
from rotograd_cli.report.single import run_page
from rotograd_cli.tables.command import to_patterns
from rotograd_cli.tables.runs import find_runs

NAME = "report.html"


def write_report(config: ReportConfig) -> Path:
    """Write the page on a run or on several.

    Args:
        config: Checked configuration.

    Returns:
        The file.

    Raises:
        ConfigError: If no run is named or found, the file cannot be written, or a library is
            missing.
    """
    if (config.run is None) == (config.runs is None):
        raise ConfigError(
            f"rotograd report needs either run=DIR or runs=GLOB, got "
            f"{'neither' if config.run is None else 'both'}; rotograd report run=DIR."
        )
    check_libraries()  # before anything is predicted
    if config.run is not None:
        run_dir = _run_dir(config.run)
        path = _output(config.output, run_dir)
        _write(path, run_page(run_dir, config))
        return path
    runs = find_runs(to_patterns(config.runs))
    path = _output(config.output, _common([run.folder for run in runs]))
    _write(path, comparison_page(runs, path.parent))
    return path


def _run_dir(name: str) -> Path:
    (folder, *others) = [run.folder for run in find_runs([name], key="run")]
    if others:
        raise ConfigError(
            f"`run` must name one run directory, got {name!r}, which holds {1 + len(others)}; "
            f"rotograd report runs={name} compares them."
        )
    return folder


def _common(folders: Sequence[Path]) -> Path:
    """Return the folder that all runs are in; of a single run, the one above it."""
    parents = [os.path.abspath(folder.parent) for folder in folders]
    return Path(os.path.commonpath(parents))


def _output(output: str | None, folder: Path) -> Path:
    if output is None:
        return folder / NAME
    path = Path(output).expanduser()
    if path.is_dir() or not output.strip() or output.endswith(os.sep):
        raise ConfigError(
            f"`output` must name a file, got {output!r}; output={os.path.join(output, NAME)}."
        )
    return path


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, page)
    except OSError as error:
        raise ConfigError(
            f"`output` must be a file that can be written, got {str(path)!r} "
            f"({error.strerror}); output=FILE names another."
        ) from error
