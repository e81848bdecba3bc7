"""Which components of a saved configuration may be run: one rule for every command.

A run directory may come from somebody else. Reading it runs nothing, and what its
configuration names is built if it is a component of this package, of ``torch.nn``, ``torch.optim``
or ``torchvision.models`` and of the kind that its place needs, or if the user's own YAML files name
it. Everything else needs ``trust=true``.
"""

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import _locate
from hydra.core.hydra_config import HydraConfig
from torch import nn

from rotograd_cli.config.files import config_dir
from rotograd_cli.config.kinds import kind_of
from rotograd_cli.errors import ConfigError

_PACKAGES = ("rotograd_cli.", "torch.nn.", "torch.optim.", "torchvision.models.")


@dataclass(frozen=True)
class Trust:
    """What the user vouches for.

    Args:
        everything: Whether all that a saved configuration names may be run.
        folders: The user's own folders of YAML files; what those name may be run.
        remedy: How the user vouches for more, for the message.
    """

    everything: bool = False
    folders: tuple[Path, ...] = ()
    remedy: str = (
        "add --config-dir DIR if one of your YAML files in DIR names it, or trust=true to run it "
        "anyway."
    )

    def check(self, config: Mapping[str, Any], source: Path, run_dir: Path) -> None:
        """Refuse components that may not be run, without importing them.

        Args:
            config: Sections that come from the file.
            source: The file, for the message.
            run_dir: The folder that came with it, which vouches for nothing.

        Raises:
            ConfigError: If a component is none of this package's, torch's or torchvision's, is of
                another kind than its place needs, and is not vouched for.
        """
        if self.everything:
            return
        unknown = [(where, name) for where, name in _targets(config) if not _is_known(where, name)]
        named = set(_named_in(self.folders, run_dir)) if unknown else set()
        for where, name in unknown:
            if name not in named:
                _, expected = kind_of(where)
                raise ConfigError(
                    f"`{where}._target_` in {source} must be {expected}, got {name!r}; "
                    f"{self.remedy}"
                )

    def check_destination(self, logger: Any, source: Path) -> None:
        """Refuse to send records to an account that the user has not named.

        Args:
            logger: Section of the configuration.
            source: The file, for the message.

        Raises:
            ConfigError: If it names an account that the user has not named.
        """
        entity = logger.get("entity") if isinstance(logger, Mapping) else None
        is_users = entity in (None, os.environ.get("WANDB_ENTITY"))
        if is_users or self.everything or logger.get("mode") != "online":
            return
        raise ConfigError(
            f"`logger.entity` in {source} must be named by you before records are sent there, got "
            f"{entity!r}; add trust=true if it is yours, or logger=none."
        )


def trust_arguments(config: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Return what a command needs to take up a run of the user's own.

    Nothing, or the user's folders of YAML files where they name its components, or ``trust=true``.
    """
    folders = user_folders()
    options = [word for f in folders for word in ("--config-dir", os.path.relpath(f))]
    for trust, arguments in ((Trust(), []), (Trust(folders=folders), options)):
        with suppress(ConfigError):
            trust.check(config, run_dir, run_dir)
            return arguments
    return ["trust=true"]


def user_folders() -> tuple[Path, ...]:
    """Return the folders of YAML files that this command names (``--config-dir``)."""
    if not HydraConfig.initialized():
        return ()
    sources = HydraConfig.get().runtime.config_sources
    added = [s for s in sources if s.schema == "file" and s.provider not in ("hydra", "main")]
    return tuple(Path(source.path) for source in added)


def _targets(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield place and name of every ``_target_`` of a configuration, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield where, str(value)
            yield from _targets(value, f"{where}.{key}".lstrip("."))
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from _targets(item, f"{where}[{index}]")


def _is_known(where: str, name: str) -> bool:
    """Whether a name is a component of the kind that a place needs, and not a stranger's.

    The name is decided on first: to look at a stranger's module would run it. What it leads to
    counts then, because a module also holds whatever it has imported.
    """
    if not (re.fullmatch(r"\w+(\.\w+)+", name) and name.startswith(_PACKAGES)):
        return False
    try:
        target = _locate(name)  # as Hydra finds it when it is built
    except Exception:  # the modules of torch raise many kinds
        return False
    base, _ = kind_of(where)
    if base is nn.Module and name.startswith("torchvision."):
        return _is_builder(target)
    own = f"{getattr(target, '__module__', '')}.".startswith(_PACKAGES)
    return own and inspect.isclass(target) and issubclass(target, base)


def _is_builder(target: Any) -> bool:
    """Whether it is one of torchvision's functions that make a network."""
    from torchvision.models import get_model_builder, list_models

    return any(target is get_model_builder(name) for name in list_models())


def _named_in(folders: Iterable[Path], run_dir: Path) -> Iterator[str]:
    """Yield the names in the user's YAML files, but for those that came with the run."""
    groups = [path.name for path in config_dir().iterdir() if path.is_dir()]
    files = [f for folder in folders for group in groups for f in (folder / group).rglob("*.yaml")]
    for file in files:
        if file.resolve().is_relative_to(run_dir.resolve()):
            continue
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # a file of no choice
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
            yield from (name for _, name in _targets(content))
