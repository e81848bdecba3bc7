"""The part of a step that a method spends on its rotations."""

from collections.abc import Callable

from rotograd_cli.data.base import Batch
from rotograd_cli.methods.base import MultiTaskMethod


def rotation_part(model: MultiTaskMethod, batch: Batch) -> Callable[[], None] | None:
    """The rotation work of one step, alone, to be timed in blocks of its own.

    Args:
        model: Method in training mode, on the device, with its rotations prepared.
        batch: A batch of the benchmark.

    Returns:
        What does that work once, without a network; None where it cannot be told apart, as for
        now everywhere. The table has a column for it as soon as one contender returns something.
    """
    del model, batch
    return None
