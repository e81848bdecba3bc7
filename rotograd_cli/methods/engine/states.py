"""Names that states of earlier versions have."""

from typing import Any

from torch import nn


def take_names_of_before(
    method: nn.Module, state: dict[str, Any], prefix: str, *unused: Any
) -> None:
    """Rename what runs saved when a method was its own rule: ``logits`` became ``rule.logits``.

    An entry that the method still has under the old name too (``initial_losses``) goes to both.

    Args:
        method: Has a ``rule``.
        state: A ``state_dict``; changed.
        prefix: The method's own.
        *unused: Further arguments of a hook of ``load_state_dict``.
    """
    del unused
    expected = method.state_dict()
    for name in expected:
        before = prefix + name.removeprefix("rule.")
        if name.startswith("rule.") and prefix + name not in state and before in state:
            state[prefix + name] = state[before]
            if name.removeprefix("rule.") not in expected:
                del state[before]
