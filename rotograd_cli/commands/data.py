"""Check or prepare the files of a data set: rotograd data check | prepare NAME.

usage: rotograd data check [NAME] [KEY=VALUE ...]
       rotograd data prepare NAME [--from FILE] [--workers N] [KEY=VALUE ...]

check     say whether the files are there and correct, what is missing and where to get it;
          without a name: all data sets
prepare   decode the files once into what training reads; an interrupted preparation continues

--from FILE   a source outside the data root: nyu_depth_v2_labeled.mat for nyuv2
--workers N   threads; all cores by default
KEY=VALUE     as you will give it to training: paths.data_dir=DIR, data.limit=1000
--config-dir  a folder of your own YAML files: DIR/data/foo.yaml

The data root is paths.data_dir, or the variable ROTOGRAD_DATA, or ./data.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotograd_cli.errors import WRONG_INPUT, ConfigError

if TYPE_CHECKING:
    from rotograd_cli.data.base import MultiTaskDataset

GROUPS = ()
ACTIONS = ("check", "prepare")


def run(arguments: Sequence[str]) -> int:
    """Check or prepare files.

    Returns:
        Exit code: 0 if everything asked for is there, ``WRONG_INPUT`` if files are missing or
        wrong.
    """
    from rotograd_cli.config.compose import composing

    request = _parse(arguments)
    with composing():
        if request.action == "prepare":
            return _prepare(request)
        return _check_all(request) if request.name is None else _check(request)


def _parse(arguments: Sequence[str]) -> Namespace:
    """Return ``action``, ``name``, ``source``, ``workers``, ``config_dir`` and ``overrides``."""
    from rotograd_cli.commands.support.hydra_app import parsed, plain_parser, refusal
    from rotograd_cli.config.arguments import ready

    parser = plain_parser()
    parser.add_argument("--from", dest="source")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    request = parsed(parser, "data", ready(arguments))
    request.action, *others = request.overrides or ["nothing"]
    if request.action not in ACTIONS:
        raise refusal("data", f"`rotograd data` needs check or prepare, got {request.action!r}")
    names = [argument for argument in others if "=" not in argument]
    request.name = names[0] if names else None
    request.overrides = [argument for argument in others if "=" in argument]
    if len(names) > 1 or (request.action == "prepare" and not names):
        given = " ".join(names) or "none"
        raise refusal("data", f"`rotograd data {request.action}` takes one data set, got {given}")
    if request.action == "check" and request.source is not None:
        raise refusal("data", "`--from` belongs to `rotograd data prepare`")
    _check_values(request)
    return request


def _check_values(request: Namespace) -> None:
    if request.workers < 1:
        raise ConfigError(f"`--workers` must be at least 1, got {request.workers}.")
    if request.source is not None and not Path(request.source).is_file():
        raise ConfigError(f"`--from` must name a file, got {request.source!r}; check the path.")
    for override in request.overrides:
        if not override.lstrip("+").startswith(("data.", "paths.", "data_dir=")):
            raise ConfigError(
                f"`{override.partition('=')[0]}` has no meaning for the files of a data set; set "
                "paths.data_dir or data.KEY."
            )


def _prepare(request: Namespace) -> int:
    from rotograd_cli.data.base import Preparation
    from rotograd_cli.tracking.console import progress_bars

    cls, files = _data_set(request, request.name)
    source = None if request.source is None else Path(request.source)
    with progress_bars() as progress:
        how = Preparation(source, request.workers, progress.say, progress.update)
        cls.prepare(**files, how=how)
    return 0


def _check(request: Namespace) -> int:
    cls, files = _data_set(request, request.name)
    checks = cls.check_files(**files)
    if not checks:
        print(f"{request.name} needs no files.")
        return 0
    print(f"{request.name} in {files['data_dir']}")
    width = max(len(check.what) for check in checks)
    for check in checks:
        print(f"  {'ok' if check.ok else 'NOT OK':6s}  {check.what:{width}s}  {check.found}")
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        print(f"{check.what}: {check.remedy}")
    return WRONG_INPUT if wrong else 0


def _check_all(request: Namespace) -> int:
    from rotograd_cli.config.compose import component_names
    from rotograd_cli.data.rows import data_command

    data_dir = Path()
    for name in component_names("data"):
        cls, files = _data_set(request, name)
        data_dir = files["data_dir"]
        checks = cls.check_files(**files)
        wrong = ", ".join(check.what for check in checks if not check.ok)
        verdict = f"not ok: {wrong}" if wrong else "ready"
        print(f"  {name:12s} {verdict if checks else 'needs no files'}")
    print(f"{data_command('check', 'NAME', data_dir)} says what is missing and where to get it.")
    return 0


def _data_set(request: Namespace, name: str) -> "tuple[type[MultiTaskDataset], dict[str, Any]]":
    """Return a class of data set, and where its files are: ``data_dir`` and ``options``."""
    from rotograd_cli.config.arguments import search_path
    from rotograd_cli.config.components import data_constructor
    from rotograd_cli.config.overrides import composed
    from rotograd_cli.config.schema import to_train_config
    from rotograd_cli.data.base import MultiTaskDataset

    overrides = [f"data={name}", *request.overrides]
    if request.config_dir is not None:
        overrides.append(search_path(Path(request.config_dir)))
    config = to_train_config(composed("train", overrides))
    cls: Any = data_constructor(config.data).target
    if not (isinstance(cls, type) and issubclass(cls, MultiTaskDataset)):
        raise ConfigError(f"`data._target_` must be a MultiTaskDataset, got {cls.__name__}.")
    options = {key: value for key, value in config.data.items() if not key.startswith("_")}
    return cls, {"data_dir": Path(config.paths.data_dir).expanduser(), "options": options}
