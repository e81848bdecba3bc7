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
    from rotograd_cli.config.compose import composing_many

    words = parsed(plain_parser(), "explain", arguments).overrides
    if not words:
        raise refusal("explain", "`rotograd explain` needs a key")
    chosen = choices_among(arguments)
    with composing_many():
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
    """Return the facts of a command. Hydra must be running; see :class:`Facts`."""
    from rotograd_cli.config.compose import register_schemas
    from rotograd_cli.config.facts import Facts

    if command in LAST:
        from rotograd_cli.commands.reproduction.settings import ReproduceConfig
        from rotograd_cli.tables.command import TableCommand

        register_schemas(reproduce_schema=ReproduceConfig, table_command_schema=TableCommand)
        has_table = any(each.startswith("table=") for each in overrides)
        overrides = overrides if has_table else [*overrides, "table=multimnist"]
    return Facts(command, overrides)


def _facts_with(key: str, overrides: Sequence[str]) -> "Facts":
    """Return the facts of the first command that has a key, with these choices of groups."""
    refusals = []
    names: list[str] = []
    for command in COMMANDS:
        near = difflib.get_close_matches(key, names)
        if command in LAST and near:
            break
        try:
            facts = facts_of(command, overrides)
        except ConfigError as error:
            refusals.append(error)
            continue
        if key in facts.settings or key in facts.groups:
            return facts
        names += [*facts.settings, *facts.groups]
    if not names:
        raise refusals[0]
    same = [name for name in names if name.endswith(f".{key}")]
    near = list(dict.fromkeys([*same, *near])) or ["train", "method", "data"]
    raise ConfigError(f"`{key}` is not a key; did you mean {listed(near)}?")


def _print(facts: "Facts", key: str) -> None:
    settings = facts.settings.get(key, [])
    accepted = facts.accepted(key)
    texts = [each.text if len(settings) > 1 else "" for each in settings]
    places = [f"{each.place} {text}".strip() for each, text in zip(settings, texts, strict=True)]
    _print_value(facts, key)
    _print_wrapped(f"accepts {accepted}" if accepted else "")
    _print_wrapped(f"set in {', then '.join(places)}" if places else "")
    for other in facts.settings:
        if other.startswith(f"{key}."):
            _print_value(facts, other)


def _print_value(facts: "Facts", key: str) -> None:
    is_set = key in facts.settings  # a group without a choice is not
    value = facts.value(key) if is_set else "null"
    print(f"{key} = {value}" if value else key)
    _print_wrapped(facts.meaning(key) if is_set else "")


def _print_wrapped(text: str) -> None:
    width = min(shutil.get_terminal_size().columns, 120)
    for line in textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    "):
        print(line)
