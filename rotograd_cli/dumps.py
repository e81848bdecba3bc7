"""What is in a dump of a step that was not finite, and whether it can be trusted."""

import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rotograd_cli.config import TrainConfig, to_train_config
from rotograd_cli.data.base import Batch, MultiTaskDataset
from rotograd_cli.errors import CheckpointError
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.nonfinite import NAME

_PACKAGES = ("rotograd_cli.", "torch.optim.", "torch.nn.")
_KINDS = (MultiTaskDataset, nn.Module, Optimizer, LRScheduler)
_NO_LOGGER = {"_target_": "rotograd_cli.tracking.base.NullTracker", "_partial_": True}


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


def config_of(content: Mapping[str, Any], path: Path, *, trust: bool) -> TrainConfig:
    """The run's configuration, without what a replay has no use for: logger, pretrained weights.

    Args:
        content: What :func:`read_dump` returned.
        path: The file, for the message.
        trust: Whether it may name components from outside this package and torch.

    Returns:
        The checked configuration.

    Raises:
        CheckpointError: If it is not a run's, or names something that is not trusted.
    """
    try:
        config = to_train_config(content["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no configuration of a run: {error}") from error
    config.logger = _NO_LOGGER
    if not trust:
        for target in _targets(asdict(config) | {"logger": {}}):
            _check_target(target, path)
    if "pretrained" in config.backbone:  # the dump has the weights
        config.backbone = {**config.backbone, "pretrained": False}
    return config


def _targets(node: Any) -> Iterator[str]:
    """All that a configuration would have called, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _targets(item)
    elif isinstance(node, str) and "${" in node:  # could become anything
        yield node


def _check_target(name: str, path: Path) -> None:
    """Refuses what a dump from a stranger could have called."""
    known = re.fullmatch(r"[\w.]+", name) and name.startswith(_PACKAGES)
    try:
        target = pkgutil.resolve_name(name) if known else None
    except (ImportError, ValueError, AttributeError):
        target = None
    module = f"{getattr(target, '__module__', '')}."
    if inspect.isclass(target) and issubclass(target, _KINDS) and module.startswith(_PACKAGES):
        return
    raise CheckpointError(
        f"{path} asks for {name}, which is no component of this package or of torch; add "
        "trust=true if it is yours, or if you trust whoever made the dump."
    )
