"""Reference pages of the documentation site, made of the YAML files at build time."""

from collections.abc import Iterator

from rotograd_cli.config.files import choices, config_dir

GROUPS = {
    "method": "Methods",
    "data": "Data sets",
    "backbone": "Backbones",
    "head": "Heads",
    "experiment": "Experiments",
}


def pages() -> Iterator[tuple[str, str]]:
    """Yield name and Markdown of every page."""
    for group, title in GROUPS.items():
        sections = [_section(group, name) for name in choices(group)]
        yield f"{group}.md", "\n\n".join([f"# {title}", *sections])


def _section(group: str, name: str) -> str:
    text = (config_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")
    return f"## {name}\n\n```yaml\n{text}```"
