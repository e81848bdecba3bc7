"""What a checkpoint holds of a run, how the run goes back to it, and what is checked then."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.seeding import rng_state, set_rng_state
from rotograd_cli.training.train_state import TrainState

SELECTED = ("state", "model", "records", "config")
"""What ``best.pt`` holds of a run, from which no run goes on."""


def content_of(run: RunState) -> dict[str, Any]:
    """Return what a checkpoint holds of a run; its tensors are the run's, not copies."""
    content = {
        "state": {**asdict(run.state), "wall_s": run.wall_s},
        "model": run.evaluated_model.state_dict(),
        "optimizers": {group.name: group.optimizer.state_dict() for group in run.groups},
        "schedulers": {group.name: group.scheduler.state_dict() for group in run.groups},
        "planned_norm": run.model.rotations.planned_norm if run.model.rotated else None,
        "window": run.window.clone(),
        "loss_scale": None if run.loss_scale is None else run.loss_scale.state_dict(),
        "rng": rng_state(),
    }
    if run.average is not None:
        content["followed"] = run.model.state_dict()
        content["num_averaged"] = run.average.num_updates
    return content


def restore(run: RunState, content: dict[str, Any], path: Path, epochs: int) -> dict[str, int]:
    """Go back to the moment in which :func:`content_of` was called.

    Args:
        run: The run; it may have another length than when the checkpoint was written.
        content: A checkpoint: what that returned, ``records`` and ``config``.
        path: The file, for the message.
        epochs: Epochs that the run is planned for.

    Returns:
        How far the record files were written then: bytes by name.

    Raises:
        CheckpointError: If it is another run's.
    """
    if "optimizers" not in content:
        raise CheckpointError(
            f"{path} must be a whole checkpoint, got a selected epoch (best.pt), which has no "
            f"optimisers; put last.pt back, or start a run with init_from={path} init_what=all."
        )
    try:
        _load(run, content, path)
        before = content["config"]["train"]["epochs"]
        if before != epochs:
            _extend(run, before, epochs)
        return {str(name): int(size) for name, size in content["records"].items()}
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged content raises anything
        raise CheckpointError(
            f"{path} is no checkpoint of this run ({type(error).__name__}: {error}); resume "
            "with the version and the configuration that it was trained with."
        ) from error


def _load(run: RunState, content: dict[str, Any], path: Path) -> None:
    run.state = TrainState.restored(content["state"])
    load_weights(run.evaluated_model, content["model"], path)
    if run.average is not None:
        load_weights(run.model, content["followed"], path)
        run.average.restore_count(content["num_averaged"])
    for group in run.groups:
        saved = content["optimizers"][group.name]
        if run.model.rotated is not None:
            _pack_moments(saved, group.optimizer, run.model.rotations.free_parameters)
        group.optimizer.load_state_dict(saved)
        group.scheduler.load_state_dict(content["schedulers"][group.name])
    norm = content.get("planned_norm")  # earlier versions saved none
    is_needed = run.state.batch > 0 and run.model.rotated is not None
    run.planned_norm = float(norm) if is_needed and norm is not None else None
    run.window.copy_(content["window"])
    if run.loss_scale is not None:
        run.loss_scale.load_state_dict(content["loss_scale"])
    set_rng_state(content["rng"])
    if run.ranks.size > 1 and run.device.type == "cuda":  # the first rank's device was 0
        torch.cuda.set_rng_state(content["rng"]["cuda"][0].cpu(), run.device)


def _extend(run: RunState, before: int, now: int) -> None:
    """Go on with a run that is to have more epochs; schedules that end with it are laid out anew.

    Args:
        run: The run, restored.
        before: Epochs that it was planned for.
        now: Epochs that it is planned for.
    """
    run.state.extended_at.append(run.state.epoch)
    run.state.averaged.clear()  # other epochs are the last ones
    for group in run.groups:
        if group.ends_with_run:
            rates = group.replay(run.state.step)
            run.remarks.append(
                f"{group.name}_scheduler ended with epoch {before} and now ends with epoch "
                f"{now}: the learning rate changes from {rates[0]:.3g} to {rates[1]:.3g}, its "
                f"value at this point of a run of {now} epochs."
            )


def _pack_moments(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, rotations: torch.nn.Parameter
) -> None:
    """Pack what earlier versions saved of rotations as whole matrices in an optimiser's state."""
    numbers = (number for group in saved["param_groups"] for number in group["params"])
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    for number, parameter in zip(numbers, parameters, strict=False):
        if parameter is rotations and number in saved["state"]:
            state = saved["state"][number]
            state |= {k: packed(x) for k, x in state.items() if isinstance(x, torch.Tensor)}


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a model's state, all of it.

    Args:
        model: The model.
        state: Its ``state_dict``.
        path: Where the state came from, for the message.

    Raises:
        CheckpointError: If names or shapes differ: the checkpoint is another model's.
    """
    try:
        model.load_state_dict(state)
    except Exception as error:  # hooks of modules raise many kinds
        details = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is the checkpoint of another model than its config.yaml describes "
            f"({details[:200]}); evaluate the run with the configuration it was trained with."
        ) from error
