"""Reference pages of the documentation site, made at build time of YAML files, schemas and help."""

import html
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import yaml

import rotograd_cli
from rotograd_cli import commands, methods
from rotograd_cli.commands.explain import COMMANDS, facts_of
from rotograd_cli.config.facts import Facts, Setting, accepted_by, header, settings_of
from rotograd_cli.config.files import config_dir

ROOT = Path(__file__).parents[1]
GROUPS = {
    "method": "Methods",
    "data": "Data sets",
    "backbone": "Backbones",
    "head": "Heads",
    "optimizer": "Optimisers",
    "scheduler": "Learning-rate schedules",
    "logger": "Loggers",
    "launcher": "Launchers of sweeps",
    "sweep": "Searches",
    "experiment": "Experiments",
    "debug": "Debugging presets",
    "table": "Tables",
    "figure": "Figures",
    "workload": "Workloads of benchmarks",
    "paths": "Folders",
}
# whose files are components, or rather values of other groups
COMPONENTS = ("method", "data", "backbone", "head", "optimizer", "scheduler", "logger")
OWN_PAGES = ("method", "data", "backbone", "head", "logger", "hydra")
LISTED = ("rotograd_cli.runs", "rotograd_cli.methods.rule", "rotograd_cli.methods.engine")
"""Modules of classes whose members are part of the interface."""
BREAKS = re.compile(r"(?<=[.,:/=])(?=\w)|(?<=&#95;)(?=\w)")


def pages() -> Iterator[tuple[str, str]]:
    """Yield name and Markdown of every page."""
    yield "index.md", _contents()
    yield "keys.md", _keys()
    for group, title in GROUPS.items():
        yield f"{group}.md", _group(group, title)
    yield "commands.md", _commands()
    yield "python.md", _python("Python: runs", rotograd_cli, rotograd_cli._PLACES)
    yield "python_methods.md", _python("Python: methods", methods, methods.__all__)


def _contents() -> str:
    lines = [f"- [{title}]({group}.md): `{group}=NAME`" for group, title in GROUPS.items()]
    return "\n".join(
        [
            "# Reference\n",
            "These pages are made of the code, the YAML files and their comments. "
            "`rotograd explain KEY` prints the same in a terminal.\n",
            "- [Configuration keys](keys.md) of every command",
            "- [Help](commands.md) of every command",
            "- [Python: runs](python.md), [Python: methods](python_methods.md)",
            *lines,
        ]
    )


def _keys() -> str:
    parts = [
        "# Configuration keys",
        "What every command takes as `KEY=VALUE`. Options of methods, data sets, networks and "
        "loggers have [pages of their own](index.md). Keys below `hydra` are "
        "[Hydra's](https://hydra.cc/docs/configure_hydra/intro/).",
    ]
    known: set[str] = set()
    for command in COMMANDS:
        facts = facts_of(command)
        keys = [key for key in facts.settings if _is_listed(facts, key, known)]
        known |= set(keys) if command == "train" else set()
        parts += [f"## rotograd {command}", *_sections(facts, keys, command)]
    return "\n\n".join(parts)


def _is_listed(facts: Facts, key: str, known: set[str]) -> bool:
    section = key.partition(".")[0]
    is_elsewhere = section in (*OWN_PAGES, "table", "figure") or key in facts.groups
    return not is_elsewhere and key not in known and bool(facts.value(key))


def _sections(facts: Facts, keys: Iterable[str], command: str) -> Iterator[str]:
    prefix = "" if command == "train" else f"{command}."
    for section, members in groupby(sorted(keys, key=_section), _section):
        rows = []
        for key in members:
            settings = facts.settings[key]
            meaning = facts.meaning(key)
            accepted = facts.accepted(key)
            types = "" if meaning.startswith(accepted) else accepted
            written = next(each.text for each in settings[::-1] if each.text)
            places = ", ".join(each.place for each in settings)
            anchor = f'<span id="{prefix}{key}"></span>'
            rows.append(_row(anchor, key, written, meaning, [types, places]))
        title = f"### {section}" if section else ""
        meaning = _prose(facts.meaning(section)) if section in facts.settings else ""
        yield "\n\n".join(filter(None, [title, meaning, _table(rows)]))


def _section(key: str) -> str:
    return key.rpartition(".")[0]


def _group(group: str, title: str) -> str:
    files = sorted((config_dir() / group).glob("*.yaml"))
    intro = (
        f"`{group}=NAME` takes a file of `conf/{group}`; `{group}.KEY=VALUE` sets one of its keys."
        if group in COMPONENTS
        else f"`{group}=NAME` takes a file of `conf/{group}`."
    )
    if group in ("optimizer", "scheduler"):
        intro = (
            f"`{group}@model_{group}=NAME` chooses for the network, `{group}@method_{group}=NAME` "
            f"for the method's own parameters; options are `model_{group}.KEY=VALUE` and so on."
        )
    return "\n\n".join([f"# {title}", intro, *(_file(group, file) for file in files)])


def _file(group: str, file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    parts = [f"## {file.stem}", "  \n".join(map(_prose, header(file)))]
    target = re.search(r"^_target_: rotograd_cli\.methods\.\w+\.(\w+)", text, re.MULTILINE)
    if target and target[1] in methods.__all__:
        parts.append(f"Class: [`{target[1]}`][rotograd_cli.methods.{target[1]}]")
    settings = [each for each in settings_of(file) if each.text]
    if group in COMPONENTS and settings:
        parts.append(_table(_option(text, each) for each in settings))
    elif group not in COMPONENTS:
        parts.append(f"```yaml\n{_body(text)}```")
    return "\n\n".join(parts)


def _option(text: str, setting: Setting) -> str:
    node = yaml.safe_load(text)
    for part in setting.key.split(".")[:-1]:
        node = node[part]
    target = node.get("_target_", "???")
    accepted = "" if target == "???" else accepted_by(target, setting.key)
    return _row("", setting.key, setting.text, setting.comment, [accepted])


def _body(text: str) -> str:
    """Return a YAML file without the comment that it opens with."""
    return re.sub(r"\A(#.*\n)+", "", text)


def _commands() -> str:
    parts = ["# Help of the commands", f"```text\n{commands.overview()}\n```"]
    for name in commands.names():
        parts += [f"## rotograd {name}", f"```text\n{commands.usage(name, [])}\n```"]
    return "\n\n".join(parts)


def _python(title: str, module: object, names: Iterable[str]) -> str:
    path = module.__name__
    parts = [f"# {title}", f"What `from {path} import ...` offers."]
    for name in sorted(names, key=str.lower):
        item = getattr(module, name)
        has_members = isinstance(item, type) and item.__module__.startswith(LISTED)
        options = "{}" if has_members else "{members: false}"
        parts.append(f"::: {path}.{name}\n    options: {options}")
    return "\n\n".join(parts)


def _table(rows: Iterable[str]) -> str:
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _row(anchor: str, key: str, value: str, meaning: str, details: Iterable[str]) -> str:
    small = " · ".join(_prose(each) for each in details if each)
    more = f'<span class="details">{small}</span>' if small else ""
    default = "needed" if value == "???" else _code(value)
    return f"| {anchor}{_code(key)} | {default} | {_prose(meaning)} {more} |"


def _code(text: str) -> str:
    """Return code that can break into lines behind a separator, and nowhere else."""
    return f"<code>{BREAKS.sub('<wbr>', _escaped(text))}</code>"


def _prose(text: str) -> str:
    """Return a comment of a YAML file as Markdown: only its code and its links are markup."""
    parts = text.split("`")
    parts[::2] = [_linked(_escaped(part)) for part in parts[::2]]
    parts[1::2] = [_code(part) for part in parts[1::2]]
    return "".join(parts)


def _escaped(text: str) -> str:
    return re.sub(r"[|*_\[\]{}$\\]", lambda found: f"&#{ord(found[0])};", html.escape(text))


def _linked(text: str) -> str:
    return re.sub(r"\b(?:docs|datasets)/[\w/&#;-]+\.md", _titled, text)


def _titled(found: re.Match[str]) -> str:
    path = html.unescape(found[0])
    title = (ROOT / path).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{_escaped(title)}](../../{path})"
