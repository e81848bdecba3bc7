"""Facts on every key of a configuration: meaning, value, what it accepts, which files set it.

Meanings are the comments of the YAML files. ``rotograd explain`` prints these facts, and the
reference pages of the documentation are made of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from itertools import takewhile
from pathlib import Path

import yaml
from hydra import compose
from hydra._internal.utils import _locate
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.bounds import hints_of, in_words
from rotograd_cli.config.files import config_dir
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
        self.settings: dict[str, list[Setting]] = {}
        with explaining(command, overrides):
            self._config = compose(command, list(overrides), return_hydra_config=True)
            chosen = loader.compute_defaults_list(command, list(overrides), RunMode.RUN).defaults
        runtime = self._config.hydra.runtime
        self.groups = {name.rpartition("@")[2]: name for name in map(str, runtime.choices)}
        folders = [Path(source.path) for source in runtime.config_sources]
        for default in chosen:
            for file in (folder / f"{default.config_path}.yaml" for folder in folders):
                if file.is_file():
                    self._read(file, default.package or "")
                    break

    def _read(self, file: Path, package: str) -> None:
        settings = list(settings_of(file, package))
        if package in self.groups:  # what was chosen of it
            settings.insert(0, Setting(package, file, 1, file.stem, header(file)[0]))
        for setting in settings:
            self.settings.setdefault(setting.key, []).append(setting)

    def meaning(self, key: str) -> str:
        """First comment on a key; later files that set it may say why they do."""
        return next((each.comment for each in self.settings[key] if each.comment), "")

    def value(self, key: str) -> str:
        """Value of a key as it is written after ``KEY=``; empty for a section."""
        written = next((each.text for each in self.settings[key][::-1] if each.text), "")
        if "${" not in written or key.startswith("hydra."):  # Hydra's depend on the time
            return written
        with suppress(OmegaConfBaseException):
            return override_value(OmegaConf.select(self._config, key))
        return written

    def accepted(self, key: str) -> str:
        """Return what a key accepts, in words; an option of a component by its signature."""
        parent, _, name = key.rpartition(".")
        section = OmegaConf.select(self._config, parent) if parent else self._config
        schema = OmegaConf.get_type(section)
        if is_dataclass(schema):
            return in_words(hints_of(schema).get(name))
        target = OmegaConf.select(section, "_target_", throw_on_missing=False)
        return accepted_by(target, name) if target else ""


def accepted_by(target: str, option: str) -> str:
    """Return what an option of a component accepts, in words, by the signature of its class.

    Args:
        target: Path of the class or function.
        option: Name of the option; of a rule, also one of the network around it.
    """
    from rotograd_cli.config.components import accepted_parameters  # loads torch
    from rotograd_cli.methods.engine.method import MultiTaskMethod

    of_network = accepted_parameters(MultiTaskMethod) or {}
    parameters = of_network | (accepted_parameters(_locate(target)) or {})
    return in_words(parameters.get(option))


def header(file: Path) -> list[str]:
    """Return the lines of the comment that a YAML file opens with."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines or [""]


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
        is_section = is_block and isinstance(value, yaml.MappingNode)
        written = "" if is_section else text[value.start_mark.index : value.end_mark.index].strip()
        end = name.end_mark if is_block else value.end_mark
        comment = _comment(text.splitlines(), name.start_mark, end)
        yield Setting(key, file, name.start_mark.line + 1, written, comment)
        if is_section:
            yield from _walk(value, key, file, text)


def _comment(lines: Sequence[str], start: yaml.Mark, end: yaml.Mark) -> str:
    """Return the comment behind a value, with the lines that continue it; else the lines above."""
    behind = lines[end.line][end.column :].find("#")
    if behind >= 0:
        column = end.column + behind
        blank = " " * column
        more = takewhile(lambda line: line.startswith(f"{blank}#"), lines[end.line + 1 :])
        comments = [lines[end.line][column:], *more]
    else:
        sign = " " * start.column + "#"
        comments = list(takewhile(lambda line: line.startswith(sign), lines[start.line - 1 :: -1]))
        is_header = len(comments) >= start.line
        comments = [] if is_header else comments[::-1]
    return " ".join(comment.strip().lstrip("# ") for comment in comments)
