"""What a network is made of: refused in one line where it does not fit."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn
from torch.utils._pytree import tree_leaves

from rotograd_cli.errors import BackwardError, ConfigError, ShapeError
from rotograd_cli.methods.rule import Rule

GradientsOf = Literal["features", "parameters"]
"""What task gradients are taken with respect to: the shared features, or the backbone's weights."""


def num_heads(heads: Sequence[nn.Module]) -> int:
    """Return the number of heads.

    Raises:
        ConfigError: If they are no list.
        ShapeError: If there is none.
    """
    if not isinstance(heads, (Sequence, nn.ModuleList)):
        raise ConfigError(
            f"`heads` must be a list of modules, one per task, got {type(heads).__name__}; "
            "pass [HEAD], or list(HEADS)."
        )
    if len(heads) == 0:
        raise ShapeError("`heads` must hold one module per task, got none; pass at least one.")
    return len(heads)


def check_rule(rule: Rule, num_tasks: int) -> None:
    """Refuse what is no rule for so many tasks.

    Raises:
        ConfigError: If it is no rule, or its constructor left that of its class out.
        ShapeError: If it was built for another number of tasks.
    """
    if not isinstance(rule, Rule):
        found, remedy = type(rule).__name__, "PCGrad()"
        if isinstance(rule, type) and issubclass(rule, Rule):
            needs_number = "num_tasks" in inspect.signature(rule).parameters
            found = f"the class {rule.__name__}"
            remedy = f"{rule.__name__}({f'num_tasks={num_tasks}' if needs_number else ''})"
        raise ConfigError(
            "`rule` must be an object of a subclass of rotograd_cli.methods.rule.Rule, got "
            f"{found}; pass {remedy}, say, or None for the plain sum."
        )
    name = type(rule).__name__
    if "_parameters" not in vars(rule):
        raise ConfigError(
            f"`{name}.__init__` must call super().__init__() first, which it does not; add the "
            "call."
        )
    if rule.num_tasks not in (None, num_tasks):
        raise ShapeError(
            f"`rule.num_tasks` must be the number of heads ({num_tasks}), got {rule.num_tasks}; "
            f"build {name} with num_tasks={num_tasks}."
        )


def check_task_names(option: str, names: Iterable[str], task_names: Sequence[str]) -> None:
    """Refuse values by task of which one names no task.

    Args:
        option: The option that holds them.
        names: The names that it has.
        task_names: Those of the K tasks.

    Raises:
        ConfigError: If one is not a task's.
    """
    for name in names:
        if name not in task_names:
            raise ConfigError(
                f"`{option}.{name}` must name a task of this run, which are "
                f"{', '.join(task_names)}; correct the name, or leave it out."
            )


def check_gradients(gradients: str, rule: Rule, *, rotates: bool) -> None:
    """Refuse task gradients over the parameters where nothing would look at them.

    Args:
        gradients: :data:`GradientsOf`.
        rule: The rule.
        rotates: Whether the features are rotated.

    Raises:
        ConfigError: If rotations or a rule that takes no task gradients have to do with them.
    """
    name = type(rule).__name__
    if gradients == "features" and rule.needs_parameters:
        remedy = "" if rotates else "add method.gradients=parameters, or "
        raise ConfigError(
            f"`gradients` must be parameters with these options of {name}, which adds up task "
            f"gradients over steps, got features; {remedy}choose another rule."
        )
    if gradients == "features":
        return
    if gradients != "parameters":
        reason = "or parameters"
    elif rotates:
        reason = "with rotations, which turn the gradients at the features"
    elif not rule.sees_gradients:
        reason = f"with {name}, which takes no task gradients"
    else:
        return
    raise ConfigError(f"`gradients` must be features {reason}, got {gradients}; leave it out.")


def check_input(x: Any) -> None:
    """Refuse an input that waits for a gradient, which ends at the backbone's parameters.

    Raises:
        BackwardError: If it has a tensor that requires one.
    """
    if any(getattr(leaf, "requires_grad", False) for leaf in tree_leaves(x)):
        raise BackwardError(
            "`x` must require no gradient with gradients=parameters, which are those of the "
            "backbone alone, got a tensor that does; detach it, or move what makes it into the "
            "backbone."
        )


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
