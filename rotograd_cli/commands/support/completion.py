"""Completion that Hydra does not have: the user's own files, and values to choose from."""

import re
from collections.abc import Sequence

from rotograd_cli.commands.explain import choices_among, facts_of
from rotograd_cli.config.arguments import config_dirs
from rotograd_cli.config.files import choices, is_group

PLAIN = ("data", "explain")
"""Commands that take words rather than overrides; Hydra has nothing to add."""


def suggestions(command: str, words: Sequence[str]) -> list[str]:
    """Return what can stand for the last of the words after a command.

    Args:
        command: Name of the command.
        words: Words; the last one is incomplete, or empty.

    Returns:
        Whole words that begin with it.
    """
    *before, last = words
    folders = config_dirs(before)
    key, equals, _ = last.partition("=")
    candidates: Sequence[str] = ()
    if equals:
        names = choices(key, folders) if is_group(key, folders) else _values(command, key, before)
        candidates = [f"{key}={name}" for name in names]
    elif command == "data":
        candidates = choices("data", folders) if before else ("check", "prepare")
    elif command == "explain":
        facts = facts_of("train", choices_among(before))
        candidates = sorted({*facts.settings, *facts.groups.values()})
    return [candidate for candidate in candidates if candidate.startswith(last)]


def _values(command: str, key: str, before: Sequence[str]) -> list[str]:
    """Return the values that a key accepts, if they can be listed."""
    facts = facts_of(command, choices_among(before))
    accepted = facts.accepted(key) if key in facts.settings else ""
    is_listed = " | " in accepted and not accepted.startswith("list")
    return re.split(r" \| |, or ", accepted) if is_listed else []
