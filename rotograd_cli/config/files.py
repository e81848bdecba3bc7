"""Where the YAML files are. Imports nothing heavy, so that ``--help`` can list them at once."""

from collections.abc import Sequence
from pathlib import Path


def config_dir() -> Path:
    """Return the folder of the YAML files: of an installed package or of the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def is_group(name: str, folders: Sequence[Path] = ()) -> bool:
    """Return whether a name, with or without ``@PACKAGE``, is a group of YAML files.

    Args:
        name: Name as in an override.
        folders: The user's folders of YAML files.
    """
    group = name.partition("@")[0]
    return bool(group) and any((folder / group).is_dir() for folder in (config_dir(), *folders))


def choices(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Return the files of a group without their suffix, sorted.

    Args:
        group: Group, with or without ``@PACKAGE``.
        folders: The user's folders of YAML files.
    """
    name = group.partition("@")[0]
    return sorted(
        {file.stem for f in (config_dir(), *folders) for file in (f / name).glob("*.yaml")}
    )
