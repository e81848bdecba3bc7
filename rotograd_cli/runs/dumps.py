"""What is in a dump of a step that was not finite."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import CheckpointError
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.saved import saved_config
from rotograd_cli.runs.trust import Trust, without_extras
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.nonfinite import NAME


@dataclass(frozen=True)
class Failure:
    """The step as the run met it."""

    step: int
    message: str
    losses: dict[str, float]
    gradients: dict[str, float]
    micro_batches: list[Batch]
    device: str
    num_threads: int
    num_ranks: int


def read_dump(path: Path) -> dict[str, Any]:
    """Reads a dump; never executes code from it.

    Args:
        path: The file.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If it is missing, corrupt, or an ordinary checkpoint.
    """
    if not path.is_file():
        inside = path / "checkpoints" / NAME
        remedy = f"did you mean {inside}?" if inside.is_file() else "check the path."
        raise CheckpointError(f"`rotograd replay` needs a dump, there is no file {path}; {remedy}")
    content = load_checkpoint(path)
    if "failure" not in content:
        raise CheckpointError(
            f"{path} is a checkpoint, not a dump: it holds no step that failed; a run that stops "
            f"at a loss that is not finite leaves RUN/checkpoints/{NAME}."
        )
    return content


def failure_of(content: Mapping[str, Any], path: Path) -> Failure:
    """The failed step of a dump, its types checked.

    Args:
        content: What :func:`read_dump` returned.
        path: The file, for the message.

    Returns:
        The step.

    Raises:
        CheckpointError: If something is missing or of another type.
    """
    try:
        fields = dict(content["failure"])
        batches = [
            Batch(batch["inputs"], dict(batch["targets"])) for batch in fields["micro_batches"]
        ]
        failure = Failure(**{**fields, "micro_batches": batches})
        tensors = [x for batch in batches for x in (batch.inputs, *batch.targets.values())]
        numbers = (*failure.losses.values(), *failure.gradients.values())
        counts = (failure.step, failure.num_threads, failure.num_ranks)
        texts = (failure.message, failure.device)
        right = (
            len(batches) > 0
            and all(isinstance(x, torch.Tensor) and x.dim() > 0 for x in tensors)
            and all(isinstance(x, float) for x in numbers)
            and all(isinstance(x, int) and x > 0 for x in counts)
            and all(isinstance(x, str) for x in texts)
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is a damaged dump ({type(error).__name__}).") from error
    if not right:
        raise CheckpointError(f"{path} is a damaged dump (values of other types than are written).")
    return failure


def config_of(content: Mapping[str, Any], path: Path, trust: Trust) -> TrainConfig:
    """The run's configuration, without what a replay has no use for: logger, pretrained weights.

    Args:
        content: What :func:`read_dump` returned.
        path: The file, for the message.
        trust: What the user vouches for.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If it is not a run's, or names something that may not be run.
    """
    config = without_extras(saved_config(content.get("config"), path))
    in_run = path.parent.name == "checkpoints"
    trust.check(asdict(config), path, path.parent.parent if in_run else path)
    return config
