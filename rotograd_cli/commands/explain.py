"""Explain a key: what it means and accepts, its value, which file sets it: rotograd explain KEY.

usage: rotograd explain KEY [GROUP=NAME ...] [--config-dir DIR]
       rotograd explain GROUP=NAME

KEY           a key of any command's configuration, a section, or a group of YAML files
GROUP=NAME    the configuration with this choice; alone, it is explained itself
--config-dir  a folder of your own YAML files: DIR/method/mine.yaml

Examples:
  rotograd explain train.select
  rotograd explain train                     all keys of a section
  rotograd explain method=cagrad             a method and its options
  rotograd explain method.c method=cagrad    one of its options
"""

import difflib
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rotograd_cli.config.arguments import config_dirs, search_path
from rotograd_cli.config.files import is_group
from rotograd_cli.errors import ConfigError, listed

if TYPE_CHECKING:
    from rotograd_cli.config.facts import Facts

GROUPS = ()
LAST = ("table", "reproduce")
"""Commands whose schema loads torch: looked into for what is no key of others."""
COMMANDS = ("train", "bench", "evaluate", "predict", "export", "report", "plot", "runs", *LAST)
"""Commands with a configuration, in the order in which a key is looked for."""


def run(arguments: Sequence[str]) -> int:
    """Print what is known of keys."""
    from rotograd_cli.commands.support.hydra_app import parsed, plain_parser, refusal

    words = parsed(plain_parser(), "explain", arguments).overrides
    if not words:
        raise refusal("explain", "`rotograd explain` needs a key")
    chosen = choices_among(arguments)
    for word in [word for word in words if word not in chosen] or words:
        key = word.partition("=")[0].rpartition("@")[2]
        _print(_facts_with(key, chosen), key)
    return 0


def choices_among(words: Sequence[str]) -> list[str]:
    """Return the choices of groups among the words of a command line, with its folders."""
    folders = config_dirs(words)
    chosen = [word for word in words if "=" in word and is_group(word.partition("=")[0], folders)]
    return [*map(search_path, folders), *chosen]


def facts_of(command: str, overrides: Sequence[str] = ()) -> "Facts":
    """Return the facts of a command, with choices of groups."""
    from rotograd_cli.config.compose import composing
    from rotograd_cli.config.facts import Facts

    schemas: dict[str, type] = {}
    if command in LAST:
        from rotograd_cli.commands.reproduction.settings import ReproduceConfig
        from rotograd_cli.tables.command import TableCommand

        schemas = {"reproduce_schema": ReproduceConfig, "table_command_schema": TableCommand}
        overrides = overrides or ["table=multimnist"]
    with composing(**schemas):
        return Facts(command, overrides)


def _facts_with(key: str, overrides: Sequence[str]) -> "Facts":
    """Return the facts of the first command that has a key, with these choices of groups."""
    refusals = []
    names: list[str] = []
    for command in COMMANDS:
        near = difflib.get_close_matches(key, names)
        if command in LAST and (near or overrides):
            break
        try:
            facts = facts_of(command, overrides)
        except ConfigError as error:
            refusals.append(error)
            continue
        if key in facts.settings:
            return facts
        names += facts.settings
    if not names:
        raise refusals[0]
    same = [name for name in names if name.endswith(f".{key}")]
    near = list(dict.fromkeys([*same, *near])) or ["train", "method", "data"]
    section = key.partition(".")[0]
    hint = f" An option of another {section} needs {section}=NAME." if is_group(section) else ""
    raise ConfigError(f"`{key}` is not a key; did you mean {listed(near)}?{hint}")


def _print(facts: "Facts", key: str) -> None:
    """Print the facts on a key, and on all keys of a section."""
    accepted = facts.accepted(key)
    places = [f"{each.place} {each.text}".strip() for each in facts.settings[key]]
    details = [f"accepts {accepted}"] if accepted else []
    details += [f"set in {', then '.join(places)}"] if places else []
    _print_key(facts, key, details)
    for name in facts.settings:
        if name.startswith(f"{key}."):
            _print_key(facts, name)


def _print_key(facts: "Facts", key: str, details: Sequence[str] = ()) -> None:
    value = facts.value(key)
    width = min(shutil.get_terminal_size().columns, 120)
    print(f"{key} = {value}" if value else key)
    for text in (facts.meaning(key), *details):
        for line in textwrap.wrap(text, width - 4):
            print(f"    {line}")
