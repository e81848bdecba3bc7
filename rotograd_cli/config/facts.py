"""Facts on every key of a configuration: meaning, value, what it accepts, which files set it.

Meanings are the comments of the YAML files. ``rotograd explain`` prints these facts, and the
reference pages of the documentation are made of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.bounds import hints_of, in_words
from rotograd_cli.config.files import choices, config_dir
from rotograd_cli.config.overrides import explaining
from rotograd_cli.errors import override_value


@dataclass(frozen=True)
class Setting:
    """A line of a YAML file that sets a key."""

    key: str
    file: Path
    line: int
    text: str
    """Value as it is written; empty for a section."""
    comment: str

    @property
    def place(self) -> str:
        """File and line; a built-in file is named from ``conf`` on."""
        is_built_in = self.file.is_relative_to(config_dir())
        file = self.file.relative_to(config_dir().parent) if is_built_in else self.file
        return f"{file}:{self.line}"


class Facts:
    """What is known of the keys of a configuration. Hydra must be running.

    Args:
        command: Name of the command, which is that of its YAML file.
        overrides: Choices of groups; ``hydra.searchpath`` names the user's folders.

    Raises:
        ConfigError: If the configuration does not compose.
    """

    def __init__(self, command: str, overrides: Sequence[str] = ()) -> None:
        loader = GlobalHydra.instance().config_loader()
        with explaining(command, overrides):
            self._config = compose(command, list(overrides), return_hydra_config=True)
            chosen = loader.compute_defaults_list(command, list(overrides), RunMode.RUN).defaults
        runtime = self._config.hydra.runtime
        self.groups = {name.rpartition("@")[2]: name for name in map(str, runtime.choices)}
        """Groups of YAML files by the section that they fill."""
        self._folders = [Path(source.path) for source in runtime.config_sources]
        self.settings: dict[str, list[Setting]] = {
            name: [] for name in self.groups if not name.startswith("hydra/")
        }
        """Lines that set a key in the order of composition; none for a group without a choice."""
        for default in chosen:
            files = (folder / f"{default.config_path}.yaml" for folder in self._folders)
            file = next((file for file in files if file.is_file()), None)
            if file is not None:
                self._read(file, default.package or "")

    def _read(self, file: Path, package: str) -> None:
        section = package or file.parent.name
        if section in self.groups:
            self.settings[section].append(Setting(section, file, 1, file.stem, opening(file)))
        for setting in settings_of(file, package):
            self.settings.setdefault(setting.key, []).append(setting)

    def meaning(self, key: str) -> str:
        """Return the first comment on a key; later files may say why they set it."""
        return next((each.comment for each in self.settings[key] if each.comment), "")

    def value(self, key: str) -> str:
        """Return the value of a key as it is written after ``KEY=``; nothing for a section."""
        written = next((each.text for each in self.settings[key][::-1] if each.text), "")
        if "${" in written and not key.startswith("hydra."):  # Hydra's depend on the time
            with suppress(OmegaConfBaseException):
                return override_value(OmegaConf.select(self._config, key))
        return written

    def accepted(self, key: str) -> str:
        """Return what a key accepts, in words; an option of a component by its signature."""
        if key in self.groups:
            return " | ".join(choices(self.groups[key], self._folders))
        parent, _, name = key.rpartition(".")
        section = OmegaConf.select(self._config, parent) if parent else self._config
        schema: Any = OmegaConf.get_type(section)
        is_typed = is_dataclass(schema)
        if is_typed:
            return in_words(hints_of(schema).get(name))
        target = OmegaConf.select(section, "_target_", throw_on_missing=False)
        return accepted_by(target, key) if target else ""


def accepted_by(target: str, key: str) -> str:
    """Return what an option of a component accepts, in words, by the signature of its class.

    Args:
        target: Path of the class or function.
        key: Key of the option, such as ``method.c``; of a rule, also of the network around it.

    Raises:
        ConfigError: If the class cannot be imported.
    """
    from rotograd_cli.config.components import accepted_parameters, import_target  # load torch
    from rotograd_cli.methods.engine.method import MultiTaskMethod

    where, _, option = key.rpartition(".")
    of_network = accepted_parameters(MultiTaskMethod) or {}
    parameters = of_network | (accepted_parameters(import_target(target, where)) or {})
    return in_words(parameters.get(option))


def opening(file: Path) -> str:
    """Return the lines that a YAML file opens with, up to the first that ends a sentence."""
    lines = header(file)
    ends = (number for number, line in enumerate(lines, 1) if line.endswith("."))
    return " ".join(lines[: next(ends, 1)])


def header(file: Path) -> list[str]:
    """Return the lines of the comment that a YAML file opens with; at least one, if empty."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comments = takewhile(lambda line: line.startswith("#"), lines)
    texts = [line[1:].removeprefix(" ") for line in comments if "@package" not in line]
    return texts or [""]


def settings_of(file: Path, package: str = "") -> Iterator[Setting]:
    """Yield what a YAML file sets, in its order.

    Args:
        file: The file.
        package: Section that its keys belong to; empty for the whole configuration.
    """
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        yield from _walk(root, package, file, text)


def _walk(node: yaml.MappingNode, package: str, file: Path, text: str) -> Iterator[Setting]:
    for name, value in node.value:
        if name.value.startswith("_") or name.value == "defaults":
            continue
        key = f"{package}.{name.value}".removeprefix(".")
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        written = text[value.start_mark.index : value.end_mark.index].strip()
        end = (name if is_block else value).end_mark
        comment = text.splitlines()[end.line][end.column :].partition("#")[2].strip()
        is_section = is_block and isinstance(value, yaml.MappingNode)
        yield Setting(key, file, name.start_mark.line + 1, "" if is_section else written, comment)
        if is_section:
            yield from _walk(value, key, file, text)
