"""Parameters that are not trained, by patterns of their names."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from rotograd_cli.errors import ConfigError, listed


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Leave parameters out of training.

    Args:
        model: Its parameters are told not to require a gradient.
        patterns: Of names of parameters, as in a shell: ``backbone.layers.0.*``.

    Returns:
        Modules with running statistics inside of modules that are wholly frozen. The caller keeps
        them in evaluation mode, so that statistics stay with the weights that they belong to.

    Raises:
        ConfigError: If a pattern matches no parameter, or nothing of the networks is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
        if not names:
            raise _no_match(pattern, list(parameters))
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
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total = sum(num for num, _ in sizes)
    num_frozen = sum(num for num, is_trained in sizes if not is_trained)
    return [f"Frozen: {num_frozen:,} of {total:,} parameters."] if patterns else []


def _no_match(pattern: str, names: Sequence[str]) -> ConfigError:
    folders = {name.rpartition(".")[0] + ".*" for name in names}
    close = difflib.get_close_matches(pattern, [*folders, *names], cutoff=0.5)
    choices = " or ".join(close) or listed(
        list(dict.fromkeys(n.split(".")[0] + ".*" for n in names))
    )
    return ConfigError(f"`freeze` must match names of parameters, got {pattern!r}; try {choices}.")


def _statistics_of_frozen(model: nn.Module) -> list[nn.Module]:
    """Return what follows running means (BatchNorm) inside of modules that are wholly frozen."""
    wholly = [
        module
        for module in model.modules()
        if any(True for _ in module.parameters())
        and not any(p.requires_grad for p in module.parameters())
    ]
    inside = dict.fromkeys(m for module in wholly for m in module.modules())
    return [m for m in inside if isinstance(m, nn.modules.batchnorm._NormBase)]
