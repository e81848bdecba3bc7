"""The device of a run, and what happens when its memory is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rotograd_cli.errors import ConfigError
from rotograd_cli.training.blame import is_out_of_memory

_SMALLER = (
    "The run does not fit into memory; lower train.batch_size, train.eval_batch_size, "
    "rotation.shape or the sizes of the networks, or raise train.accumulate_steps."
)


@contextmanager
def memory_errors(message: str = _SMALLER) -> Iterator[None]:
    """Running out of memory, as an error that names the remedy.

    Args:
        message: The error's line.

    Raises:
        ConfigError: Where the body runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(message) from error


def resolve_device(name: str) -> torch.device:
    """The device that a name means; ``auto`` is CUDA where there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Returns:
        The device; with an index for CUDA, because a thread that loads data has a current device
        of its own.

    Raises:
        ConfigError: If the name is unknown or the device is not there.
    """
    if name == "auto":
        return resolve_device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:i, got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:i, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"`device` must exist, got {name!r} with {torch.cuda.device_count()} CUDA devices "
            "visible to torch; use device=auto or device=cpu."
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
