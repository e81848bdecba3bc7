"""What a network is made of: refused in one line where it does not fit."""

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rule import Rule


def check_parameters(rule: Rule, *, per_task_gradients: bool) -> None:
    """Refuse parameters of a rule that nothing would train.

    Args:
        rule: The rule.
        per_task_gradients: Whether the network measures the gradient of every task.

    Raises:
        ConfigError: If the rule has any.
    """
    trainable = [name for name, p in rule.named_parameters() if p.requires_grad]
    if not trainable or _learns(rule, per_task_gradients):
        return
    raise ConfigError(
        f"`{type(rule).__name__}.{trainable[0]}` is a parameter, which needs a gradient from "
        "learn (with sees_gradients = True), learn_from_losses or learn_from_update (with "
        "needs_losses_after_update = True), got none of them; override one, or register a buffer."
    )


def _learns(rule: Rule, per_task_gradients: bool) -> bool:
    """Whether a function that returns gradients of parameters is overridden and called."""
    called = {
        "learn": per_task_gradients,
        "learn_from_losses": True,
        "learn_from_update": rule.needs_losses_after_update,
    }
    overridden = (name for name in called if getattr(type(rule), name) is not getattr(Rule, name))
    return any(called[name] for name in overridden)
