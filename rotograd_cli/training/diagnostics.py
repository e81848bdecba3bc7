"""What a measured step adds to its record, by key; ``docs/diagnostics.md`` has every definition."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.measurement import Level, Measurement
from rotograd_cli.metric_keys import OF_ALL_PAIRS

LEVELS: Mapping[str, Level | None] = {"off": None, "basic": "basic", "full": "full"}
"""What is measured, by the value of the option ``diagnostics``; None is nothing."""

MAX_TASKS_WITH_PAIRS = 10
"""Number of tasks up to which ``basic`` records a cosine for every pair."""

TASK_NUMBERS = (
    "loss",
    "grad_norm",
    "weight",
    "cosine_to_update",
    "rotation_angle",
    "rotation_angle_from_identity",
    "rotation_distance",
    "rotation_loss",
    "orthogonality_error",
)
"""Names of numbers of a task that records of training steps have."""


def measurement_for(diagnostics: str) -> Measurement | None:
    """Return what takes the numbers of a step; None where the option says that nothing is."""
    level = LEVELS[diagnostics]
    return None if level is None else Measurement(level)


def measured_record(measurement: Measurement, names: Sequence[str]) -> dict[str, float]:
    """Return the numbers of a measured step by key; waits for the device.

    Args:
        measurement: What was measured.
        names: Names of the K tasks.

    Returns:
        The finite ones: a number that does not exist (a cosine with a gradient of zero, anything of
        a task without a target) has no key.
    """
    result = measurement.read()
    if result is None:
        return {}
    record = {f"train/{OF_ALL_PAIRS}/{name}": value for name, value in result.of_step.items()}
    for name, values in result.of_tasks.items():
        pairs = zip(names, values.tolist(), strict=True)
        record |= {f"train/{task}/{name}": value for task, value in pairs}
    if measurement.level == "full" or len(names) <= MAX_TASKS_WITH_PAIRS:
        for name, matrix in result.of_pairs.items():
            record |= dict(_of_pairs(name, matrix, names))
    return {key: value for key, value in record.items() if math.isfinite(value)}


def _of_pairs(name: str, matrix: Tensor, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    rows = matrix.tolist()
    for i, j in combinations(range(len(names)), 2):
        yield f"train/{names[i]}/{names[j]}/{name}", rows[i][j]


def check_user_numbers(numbers: Mapping[str, Tensor], num_tasks: int, method: str) -> None:
    """Refuse numbers of ``diagnostics()`` that have no key of their own or no value per task.

    Args:
        numbers: What the method, or its rule, returned.
        num_tasks: Number K of tasks.
        method: Its name, for the message.

    Raises:
        ConfigError: If there is one.
    """
    for name, values in numbers.items():
        if not isinstance(name, str) or not name or "/" in name or name in TASK_NUMBERS:
            raise ConfigError(
                f"`{method}.diagnostics()` must name its numbers by words without /, other than "
                f"{', '.join(TASK_NUMBERS)}, got {name!r}; choose another name."
            )
        if not isinstance(values, Tensor) or values.shape != (num_tasks,):
            found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ConfigError(
                f"`{method}.diagnostics()` must return tensors of shape [{num_tasks}], one number "
                f"per task, got {found} for {name!r}."
            )
