"""Commands of the command line: every module of this package is one, packages hold their parts.

A command defines ``SUMMARY``, its line in ``rotograd --help``; ``usage(arguments)``, which returns
its help; and ``run(arguments)``, which returns its exit code. Its module imports heavy libraries
inside of ``run`` only.
"""

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """Return the names of all commands."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def load(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"{__name__}.{name}")
