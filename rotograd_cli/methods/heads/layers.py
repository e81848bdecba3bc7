"""The layers that a head begins with, as far as they are known."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class SplitHead:
    """A head as its first linear layer and the rest."""

    layer: nn.Linear
    """The first layer."""
    rest: list[nn.Module]
    """What follows, in order."""
    flattens: bool
    """The head flattens its input first."""


def split_head(head: nn.Module) -> SplitHead | None:
    """Split a head after its first linear layer, where it begins with one.

    Only plain modules qualify, whose computation is known: ``nn.Linear``, or ``nn.Sequential`` of
    an optional ``nn.Flatten()``, an ``nn.Linear`` and anything. A hook on one of them may do
    anything, so it disqualifies.

    Args:
        head: Any module.

    Returns:
        The parts, or None.
    """
    modules = sequence_of(head)
    flattens = False
    if modules and isinstance(modules[0], nn.Flatten):
        flatten, flattens = modules[0], True
        modules = modules[1:]
        if (flatten.start_dim, flatten.end_dim) != (1, -1) or not is_plain(flatten):
            return None
    if not modules or not is_plain(modules[0]):
        return None
    layer = modules[0]
    return SplitHead(layer, modules[1:], flattens) if type(layer) is nn.Linear else None


def sequence_of(head: nn.Module) -> list[nn.Module]:
    """List the modules that a head applies one after the other, as far as that is known.

    Args:
        head: Any module.

    Returns:
        The members of a plain ``nn.Sequential`` (or of a subclass with its ``forward``); any other
        module as the only one; nothing for a sequence with hooks, which may do anything.
    """
    if type(head).forward is not nn.Sequential.forward:
        return [head]
    if not is_plain(head):
        return []
    return [module for module in head._modules.values() if module is not None]


def is_plain(module: nn.Module) -> bool:
    """Whether a module has no hooks and no ``forward`` of its own."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in vars(module)
