"""Parameters that are not trained, by patterns of their names."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rotograd_cli.errors import ConfigError, listed


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Leave parameters out of training.

    Args:
        model: Parameters that match stop requiring a gradient.
        patterns: Shell patterns of parameter names: ``backbone.layers.0.*``.

    Returns:
        BatchNorm layers inside of wholly frozen modules. The caller keeps them in evaluation mode,
        so that their statistics stay with the frozen weights.

    Raises:
        ConfigError: If a pattern matches no parameter, or nothing of the networks is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
        if not names:
            raise ConfigError(
                f"`freeze` must match names of parameters, got {pattern!r}; try "
                f"{similar(pattern, list(parameters))}."
            )
        for name in names:
            parameters[name].requires_grad_(False)
    networks = [p for name, p in parameters.items() if name.startswith(("backbone.", "heads."))]
    if patterns and not any(p.requires_grad for p in networks):
        raise ConfigError(
            f"`freeze` must leave a parameter of backbone or heads to train, got "
            f"[{','.join(patterns)}], which match all; take one out, or rotograd evaluate."
        )
    return _statistics_of_frozen(model) if patterns else []


def frozen(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Return a line that says how much of a model is not trained; none without patterns."""
    total = sum(p.numel() for p in model.parameters())
    num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return [f"Frozen: {num_frozen:,} of {total:,} parameters."] if patterns else []


def similar(pattern: str, names: Sequence[str]) -> str:
    """Return patterns that match some names and resemble one that matches none."""
    parts = [name.split(".") for name in names]
    folders = dict.fromkeys(
        ".".join(part[:num]) + ".*" for part in parts for num in range(1, len(part))
    )
    close = difflib.get_close_matches(pattern, [*folders, *names], cutoff=0.5)
    return " or ".join(close) or listed([each for each in folders if each.count(".") == 1])


def _statistics_of_frozen(model: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers inside of modules that are wholly frozen."""
    frozen_modules = [module for module in model.modules() if _is_frozen(module)]
    inside = dict.fromkeys(each for module in frozen_modules for each in module.modules())
    return [module for module in inside if isinstance(module, _NormBase)]


def _is_frozen(module: nn.Module) -> bool:
    are_trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(are_trained) and not any(are_trained)
