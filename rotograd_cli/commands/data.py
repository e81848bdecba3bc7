"""``rotograd data``: look at the files of a data set, prepare what training reads."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.data.base import MultiTaskDataset, Preparation
from rotograd_cli.data.wording import data_command
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.components import component_class
from rotograd_cli.runs.config import (
    component_names,
    config_dir,
    register_schemas,
    suggest,
    to_train_config,
)
from rotograd_cli.runs.messages import explain
from rotograd_cli.runs.words import search_path
from rotograd_cli.tracking.console import progress_bars

ACTIONS = ("check", "prepare")


@dataclass(frozen=True)
class _Request:
    action: str
    name: str | None
    source: Path | None
    workers: int
    config_dir: str | None
    overrides: list[str]


def run(words: Sequence[str]) -> int:
    """Runs ``rotograd data WORDS``.

    Args:
        words: Words after ``data``.

    Returns:
        Exit code: 0 if everything asked for is there, 2 if files are missing or wrong.

    Raises:
        RotogradError: If the input is wrong.
    """
    request = _parse(words)
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        if request.action == "prepare":
            return _prepare(request)
        return _check_all(request) if request.name is None else _check(request, request.name)


def _parse(words: Sequence[str]) -> _Request:
    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; rotograd data --help shows the options.")

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("--from", dest="source")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("words", nargs="*")
    options = parser.parse_intermixed_args(list(words))
    action, *rest = options.words or [""]
    if action not in ACTIONS:
        refuse(f"`rotograd data` needs check or prepare, got {action or 'nothing'!r}")
    names = [word for word in rest if "=" not in word]
    overrides = [word for word in rest if "=" in word]
    if len(names) > 1 or (action == "prepare" and not names):
        refuse(f"`rotograd data {action}` takes one data set, got {' '.join(names) or 'none'}")
    if options.workers < 1:
        raise ConfigError(f"`--workers` must be at least 1, got {options.workers}.")
    if options.source is not None and action == "check":
        refuse("`--from` belongs to `rotograd data prepare`")
    if options.source is not None and not Path(options.source).expanduser().is_file():
        raise ConfigError(f"`--from` must name a file, got {options.source!r}; check the path.")
    for word in overrides:
        if not word.lstrip("+").startswith(("data.", "paths.", "data_dir=")):
            key = word.partition("=")[0]
            raise ConfigError(
                f"`{key}` has no meaning for the files of a data set; set paths.data_dir or "
                "data.KEY."
            )
    source = None if options.source is None else Path(options.source).expanduser()
    return _Request(
        action, names[0] if names else None, source, options.workers, options.config_dir, overrides
    )


def _prepare(request: _Request) -> int:
    assert request.name is not None
    cls, data_dir, options = _data_set(request, request.name)
    with progress_bars() as progress:
        how = Preparation(request.source, request.workers, progress.say, progress.update)
        cls.prepare(data_dir=data_dir, options=options, how=how)
    return 0


def _check(request: _Request, name: str) -> int:
    cls, data_dir, options = _data_set(request, name)
    checks = cls.check_files(data_dir=data_dir, options=options)
    if not checks:
        print(f"{name} needs no files.")
        return 0
    print(f"{name} in {data_dir}")
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(f"  {'ok' if check.ok else 'NOT OK':6s}  {check.what:{width}s}  {check.found}")
    for check in checks:
        if not check.ok:
            print(f"{check.what}: {check.remedy}")
    return 0 if all(check.ok for check in checks) else 2


def _check_all(request: _Request) -> int:
    data_dir = Path()
    for name in component_names("data"):
        cls, data_dir, options = _data_set(request, name)
        checks = cls.check_files(data_dir=data_dir, options=options)
        wrong = [check.what for check in checks if not check.ok]
        found = f"not ok: {', '.join(wrong)}" if wrong else "ready"
        print(f"  {name:12s} {found if checks else 'needs no files'}")
    command = data_command("check", "NAME", data_dir)
    print(f"{command} says what is missing and where to get it.")
    return 0


def _data_set(
    request: _Request, name: str
) -> tuple[type[MultiTaskDataset], Path, Mapping[str, Any]]:
    """Class of a data set, the data root, and the options of its YAML file with the overrides."""
    own: list[str] = []
    if request.config_dir is not None:
        own = [search_path(Path(request.config_dir).resolve())]
    elif name not in (known := component_names("data")):
        raise ConfigError(f"{name!r} is not a data set; {suggest(name, known)}")
    words = [f"data={name}", *request.overrides, *own]
    try:
        config = to_train_config(compose("train", words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, "train", words)) from error
    cls = component_class(config.data, "data", data_dir=0, tasks=0, device=0)
    if not issubclass(cls, MultiTaskDataset):
        raise ConfigError(f"`data._target_` must be a MultiTaskDataset, got {cls.__name__}.")
    options = {key: value for key, value in config.data.items() if not key.startswith("_")}
    return cls, Path(config.paths.data_dir).expanduser(), options
