"""``rotograd data``: look at the files of a data set, prepare what training reads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotograd_cli.commands.support.parsing import parsed, plain_parser, refusal
from rotograd_cli.errors import WRONG_INPUT, ConfigError

if TYPE_CHECKING:
    from rotograd_cli.data.base import FileCheck, MultiTaskDataset

SUMMARY = "check or prepare the files of a data set: rotograd data check | prepare NAME"
ACTIONS = ("check", "prepare")
_HELP = """usage: rotograd data check [NAME] [KEY=VALUE ...]
       rotograd data prepare NAME [--from FILE] [--workers N] [KEY=VALUE ...]

check     are the files there and right? what is missing, where to get it; without a name: all sets
prepare   decode the files once into what training reads; an interrupted preparation continues

--from FILE   source other than the files in the data root: nyu_depth_v2_labeled.mat for nyuv2
--workers N   threads; all cores by default
KEY=VALUE     what training will be given too: paths.data_dir=DIR, data.limit=1000
--config-dir  a folder of your own YAML files: DIR/data/foo.yaml

The data root is paths.data_dir, or the variable ROTOGRAD_DATA, or ./data."""


@dataclass(frozen=True)
class _Request:
    action: str
    name: str | None
    source: Path | None
    workers: int
    config_dir: str | None
    overrides: list[str]


@dataclass(frozen=True)
class _DataSet:
    """A class of data set, the data root, and the options of its YAML file with the overrides."""

    cls: "type[MultiTaskDataset]"
    data_dir: Path
    options: Mapping[str, Any]

    def check_files(self) -> "Sequence[FileCheck]":
        return self.cls.check_files(data_dir=self.data_dir, options=self.options)


def usage(arguments: Sequence[str]) -> str:
    """Return the help."""
    del arguments
    return _HELP


def run(arguments: Sequence[str]) -> int:
    """Check or prepare files.

    Returns:
        Exit code: 0 if everything asked for is there, ``WRONG_INPUT`` if files are missing or
        wrong.
    """
    from rotograd_cli.runs.compose import composing

    request = _parse(arguments)
    with composing():
        if request.action == "prepare":
            return _prepare(request)
        return _check_all(request) if request.name is None else _check(request, request.name)


def _parse(arguments: Sequence[str]) -> _Request:
    from rotograd_cli.runs.arguments import ready

    parser = plain_parser()
    parser.add_argument("--from", dest="source")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parsed(parser, "data", ready(arguments))
    action, *others = options.overrides or [""]
    if action not in ACTIONS:
        given = action or "nothing"
        raise refusal("data", f"`rotograd data` needs check or prepare, got {given!r}")
    names = [word for word in others if "=" not in word]
    if len(names) > 1 or (action == "prepare" and not names):
        given = " ".join(names) or "none"
        raise refusal("data", f"`rotograd data {action}` takes one data set, got {given}")
    if options.workers < 1:
        raise ConfigError(f"`--workers` must be at least 1, got {options.workers}.")
    overrides = [word for word in others if "=" in word]
    _check_overrides(overrides)
    source = _source(action, options.source)
    name = names[0] if names else None
    return _Request(action, name, source, options.workers, options.config_dir, overrides)


def _source(action: str, name: str | None) -> Path | None:
    if name is None:
        return None
    if action == "check":
        raise refusal("data", "`--from` belongs to `rotograd data prepare`")
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"`--from` must name a file, got {name!r}; check the path.")
    return path


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if not override.lstrip("+").startswith(("data.", "paths.", "data_dir=")):
            raise ConfigError(
                f"`{key}` has no meaning for the files of a data set; set paths.data_dir or "
                "data.KEY."
            )


def _prepare(request: _Request) -> int:
    from rotograd_cli.data.base import Preparation
    from rotograd_cli.tracking.console import progress_bars

    assert request.name is not None
    data_set = _data_set(request, request.name)
    with progress_bars() as progress:
        how = Preparation(request.source, request.workers, progress.say, progress.update)
        data_set.cls.prepare(data_dir=data_set.data_dir, options=data_set.options, how=how)
    return 0


def _check(request: _Request, name: str) -> int:
    data_set = _data_set(request, name)
    checks = data_set.check_files()
    if not checks:
        print(f"{name} needs no files.")
        return 0
    print(f"{name} in {data_set.data_dir}")
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(f"  {'ok' if check.ok else 'NOT OK':6s}  {check.what:{width}s}  {check.found}")
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        print(f"{check.what}: {check.remedy}")
    return WRONG_INPUT if wrong else 0


def _check_all(request: _Request) -> int:
    from rotograd_cli.data.wording import data_command
    from rotograd_cli.runs.compose import component_names

    data_dir = Path()
    for name in component_names("data"):
        data_set = _data_set(request, name)
        data_dir = data_set.data_dir
        print(f"  {name:12s} {_verdict(data_set.check_files())}")
    command = data_command("check", "NAME", data_dir)
    print(f"{command} says what is missing and where to get it.")
    return 0


def _verdict(checks: "Sequence[FileCheck]") -> str:
    wrong = [check.what for check in checks if not check.ok]
    if wrong:
        return f"not ok: {', '.join(wrong)}"
    return "ready" if checks else "needs no files"


def _data_set(request: _Request, name: str) -> _DataSet:
    from rotograd_cli.data.base import MultiTaskDataset
    from rotograd_cli.runs.arguments import search_path
    from rotograd_cli.runs.components import component_class
    from rotograd_cli.runs.compose import component_names
    from rotograd_cli.runs.config import suggest, to_train_config
    from rotograd_cli.runs.overrides import composed

    own: list[str] = []
    if request.config_dir is not None:
        own = [search_path(Path(request.config_dir))]
    elif name not in component_names("data"):
        raise ConfigError(f"{name!r} is not a data set; {suggest(name, component_names('data'))}")
    overrides = [f"data={name}", *request.overrides, *own]
    config = to_train_config(composed("train", overrides))
    cls = component_class(config.data, "data", data_dir=0, tasks=0, device=0)
    if not issubclass(cls, MultiTaskDataset):
        raise ConfigError(f"`data._target_` must be a MultiTaskDataset, got {cls.__name__}.")
    options = {key: value for key, value in config.data.items() if not key.startswith("_")}
    return _DataSet(cls, Path(config.paths.data_dir).expanduser(), options)
