"""The authors' package (``rotograd`` 0.1.6.0 from PyPI), as a contender where it is installed."""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.gradnorm import GradNormWeights

PACKAGE = "rotograd"
_DROPPED = "geotorch.parametrize"  # imported by the package, dropped by geotorch 0.4


class ReferenceUnavailableError(ConfigError):
    """The authors' package, or a class in it, is not there: the benchmark goes on without it."""


def load_reference() -> Any:
    """Import the package, with a stand-in for the module that newer geotorch dropped.

    Raises:
        ReferenceUnavailableError: If it cannot be imported.
    """
    absent = _DROPPED not in sys.modules
    if absent:
        sys.modules[_DROPPED] = parametrize
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise ReferenceUnavailableError(f"{error}; pip install rotograd==0.1.6.0") from error
    finally:
        if absent:
            del sys.modules[_DROPPED]


def version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def build_reference(ours: MultiTaskMethod, backbone: nn.Module, heads: Sequence[nn.Module]) -> Any:
    """Build the authors' class of one of our methods, with its options, on the CPU.

    Its exponential is left as it is: torch's unbatched ``matrix_exp``, differentiated by autograd.

    Args:
        ours: Our method, whose class name and options count.
        backbone: Network of its own.
        heads: Networks of its own, one per task.

    Raises:
        ReferenceUnavailableError: If the package is not there, or has no such method.
    """
    module = load_reference()
    name = type(ours).__name__
    target = getattr(module, name, None)
    if target is None or not type(ours).__module__.startswith("rotograd_cli."):
        raise ReferenceUnavailableError(f"the authors' package has no {name}")
    rotated = ours.rotated
    if rotated is None:
        return target(backbone, list(heads))
    options: dict[str, Any] = {
        "post_shape": rotated.axes.post_shape,
        "normalize_losses": rotated.normalize_losses,
        "burn_in_period": rotated.burn_in_period,
    }
    if isinstance(ours.rule, GradNormWeights):
        options["alpha"] = ours.rule.alpha
    return target(backbone, list(heads), rotated.axes.rotation_shape, **options)


def cached(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Return the package's context manager inside which every rotation is computed once."""
    module = sys.modules[type(model).__module__]
    result: Callable[[], AbstractContextManager[Any]] = module.cached
    return result


def rotations(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return its K bases and K free parameters; none for its VanillaMTL."""
    owners = [
        getattr(model.parametrizations, f"rotation_{k}")
        for k in range(len(model.heads))
        if hasattr(model, "parametrizations")
    ]
    return [owner[0].base for owner in owners], [owner.original for owner in owners]
