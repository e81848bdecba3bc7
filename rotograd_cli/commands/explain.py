"""Explain a key: what it means and accepts, its default, where it is set: rotograd explain KEY.

usage: rotograd explain KEY [GROUP=NAME ...] [--config-dir DIR]
       rotograd explain GROUP=NAME

KEY           a key of any command's configuration, a section, or a group of YAML files
GROUP=NAME    the configuration with this choice; alone, it is explained itself
--config-dir  a folder of your own YAML files: DIR/method/mine.yaml

Examples:
  rotograd explain train.select
  rotograd explain train                     all keys of a section
  rotograd explain method                    the methods, and the options of the default one
  rotograd explain method=cagrad             one method and its options
  rotograd explain method.c method=cagrad    one of its options
"""

import difflib
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.config.arguments import config_dirs, search_path
from rotograd_cli.config.files import choices, config_dir, is_group
from rotograd_cli.errors import ConfigError, listed

if TYPE_CHECKING:
    from rotograd_cli.config.facts import Facts

GROUPS = ()
COMMANDS = (
    *("train", "bench", "evaluate", "predict", "export"),
    *("report", "plot", "runs", "table", "reproduce"),
)
"""Commands with a configuration, in the order in which a key is looked for."""


def run(arguments: Sequence[str]) -> int:
    """Print what is known of keys."""
    from rotograd_cli.commands.support.hydra_app import parsed, plain_parser, refusal
    from rotograd_cli.config.compose import composing

    words = parsed(plain_parser(), "explain", arguments).overrides
    folders = config_dirs(arguments)
    if not words:
        raise refusal("explain", "`rotograd explain` needs a key")
    chosen = [word for word in words if "=" in word and is_group(word.partition("=")[0], folders)]
    keys = [word.partition("=")[0] for word in words if word not in chosen]
    overrides = [*map(search_path, folders), *chosen]
    with composing():
        for choice in [] if keys else chosen:
            group, _, name = choice.partition("=")
            print(*_choice_page(facts_with(group, overrides), group, name), sep="\n")
        for key in keys:
            print(*_page(facts_with(key, overrides), key, folders), sep="\n")
    return 0


def facts_with(key: str, overrides: Sequence[str] = ()) -> "Facts":
    """Return the facts of the first command whose configuration has a key. Hydra must be running.

    Args:
        key: Key, section or group.
        overrides: Choices of groups.

    Raises:
        ConfigError: If none has it, or no configuration has the groups.
    """
    refusals = []
    names: list[str] = []
    for command in COMMANDS:
        try:
            facts = facts_of(command, overrides)
        except ConfigError as error:
            refusals.append(error)
            continue
        known = [*facts.settings, *facts.groups, *facts.groups.values()]
        if key in known or any(name.startswith(f"{key}@") for name in known):
            return facts
        names += known
    raise _unknown(key, names) if names else refusals[0]


def facts_of(command: str, overrides: Sequence[str] = ()) -> "Facts":
    """Return the facts of a command. Hydra must be running; see :class:`Facts`."""
    from rotograd_cli.config.compose import register_schemas
    from rotograd_cli.config.facts import Facts

    if command == "table":
        from rotograd_cli.tables.command import register_schema

        register_schema()
    if command == "reproduce":
        from rotograd_cli.commands.reproduction.settings import ReproduceConfig

        register_schemas(reproduce_schema=ReproduceConfig)
        overrides = ["table=multimnist", *(each for each in overrides if "table=" not in each)]
    return Facts(command, overrides)


def _unknown(key: str, names: Sequence[str]) -> ConfigError:
    leaf = key.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == leaf]
    near = [*same, *difflib.get_close_matches(key, names)]
    remedy = f"did you mean {listed(list(dict.fromkeys(near)))}?"
    if not near:
        remedy = "rotograd explain --help has examples, rotograd train --cfg job all keys."
    return ConfigError(f"`{key}` is not a key; {remedy}")


def _page(facts: "Facts", key: str, folders: Sequence[Path]) -> Iterator[str]:
    """Yield the lines on a key, a section or a group."""
    name = key.rpartition("@")[2]
    if name in facts.settings:
        yield from _entry(facts, name)
        accepted = "" if name in facts.groups else facts.accepted(name)
        yield from _wrapped(f"accepts {accepted}" if accepted else "")
        places = [f"{each.place} {each.text}".strip() for each in facts.settings[name]]
        yield from _wrapped(f"set in {', then '.join(places)}")
        for other in facts.settings:
            if other.startswith(f"{name}."):
                yield from _entry(facts, other)
    group = facts.groups.get(name, name)
    if is_group(group, folders):
        yield from _choices(facts, group, folders)


def _choices(facts: "Facts", group: str, folders: Sequence[Path]) -> Iterator[str]:
    from rotograd_cli.config.facts import header

    names = [name for name in facts.groups.values() if name.partition("@")[0] == group]
    yield f"{' or '.join(f'{name}=NAME' for name in names or [group])}, where NAME is one of"
    for choice in choices(group, folders):
        files = (
            folder / group.partition("@")[0] / f"{choice}.yaml"
            for folder in (*folders, config_dir())
        )
        file = next(file for file in files if file.is_file())
        yield from _wrapped(f"{choice}: {header(file)[0]}")


def _choice_page(facts: "Facts", group: str, name: str) -> Iterator[str]:
    """Yield the lines on a file of a group: how it opens, and what it sets."""
    from rotograd_cli.config.facts import header

    folder = group.partition("@")[0]
    files = [each.file for settings in facts.settings.values() for each in settings]
    file = next(each for each in files if (each.parent.name, each.stem) == (folder, name))
    yield f"{group}={name}"
    yield from (f"    {line}" for line in header(file))
    for key, settings in facts.settings.items():
        if file in [each.file for each in settings] and key not in facts.groups:
            yield from _entry(facts, key)


def _entry(facts: "Facts", key: str) -> Iterator[str]:
    value = facts.value(key)
    yield f"{key} = {value}" if value else key
    yield from _wrapped(facts.meaning(key))


def _wrapped(text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
