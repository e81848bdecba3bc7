"""rotograd-cli: train and compare RotoGrad and its rivals from YAML; take up trained runs here."""

import importlib
from typing import Any

__version__ = "0.2.0"

# imported when asked for, so that the package itself takes no time; __init__.pyi has the types
_PLACES = {
    "LoadedRun": "rotograd_cli.runs.loading",
    "Predictions": "rotograd_cli.runs.prediction_files",
    "load_run": "rotograd_cli.runs.loading",
    "read_predictions": "rotograd_cli.runs.prediction_files",
}
__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
