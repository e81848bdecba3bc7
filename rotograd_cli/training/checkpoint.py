"""Checkpoints: written atomically, read without executing code."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint: to a temporary file first, then in the place of the old one.

    Args:
        path: Target; its folder exists.
        content: Tensors and plain values only, so that it can be loaded with ``weights_only=True``.
    """
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint; never executes code from it.

    Args:
        path: The file.
        device: Where its tensors go.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If the file is missing, corrupt, not a checkpoint or of another format.
    """
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}; train the run first, or try checkpoint=last."
        )
    try:
        content = _read(path, device)
    except Exception as error:  # damaged and foreign bytes make an unpickler raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({reason}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version (format {FORMAT}).")
    return content


def _read(path: Path, device: torch.device | str) -> Any:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return torch.load(path, map_location=device, weights_only=True)


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a model's state, all of it.

    Args:
        model: The model.
        state: Its ``state_dict``.
        path: Where the state came from, for the message.

    Raises:
        CheckpointError: If names or shapes differ: the checkpoint is another model's.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is the checkpoint of another model than its config.yaml describes "
            f"({details[:200]}); evaluate the run with the configuration it was trained with."
        ) from error
