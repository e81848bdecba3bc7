"""``rotograd train resume=RUN debug=nonfinite``: where the step that ended a run began to fail."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import CheckpointError, ConfigError
from rotograd_cli.ranks import launch
from rotograd_cli.runs.building import build_run, memory_errors
from rotograd_cli.runs.directory import refuse_other_data
from rotograd_cli.runs.saved import named_run
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.checkpoint import load_checkpoint, load_newest, previous_of
from rotograd_cli.training.checkpoint_content import restore
from rotograd_cli.training.nonfinite import find_origin, wrong_parameter
from rotograd_cli.training.precision import compilation
from rotograd_cli.training.run_state import RunState


def diagnose(config: Any, overrides: Sequence[str], *, several: bool) -> str:
    """Go back to the last checkpoint of a run and train until a step is not finite.

    The folder of the run is read and left as it is.

    Args:
        config: What the command line composes.
        overrides: The command line's overrides.
        several: Whether it asks for a sweep.

    Returns:
        Task, step, and where in the step it began; or that no step fails, or none is left.

    Raises:
        RotogradError: If no run to go back to is named, or it cannot be gone back to.
    """
    if several or launch.job_size() > 1 or config.resume in (None, "auto"):
        raise ConfigError(
            "`debug=nonfinite` goes back to one run in one process; name it with resume=RUN, and "
            "leave out -m and torchrun."
        )
    trust = Trust(bool(config.trust), user_folders())
    target = named_run(str(config.resume), to_train_config(config), overrides, trust)
    return _find_failure(target.config, target.run_dir)


@memory_errors()
def _find_failure(config: TrainConfig, run_dir: Path) -> str:
    run, dataset = build_run(config, is_saved=True)
    refuse_other_data(run_dir, dataset.fingerprint, config.paths.data_dir)
    _go_back(run, run_dir / "checkpoints" / "last.pt", config.train.epochs)
    batches = EpochBatches(dataset, config.train, config.seed, run.device)
    first_step = run.state.step + 1
    last_step = config.train.epochs * batches.num_steps
    summary = RunSummary.read(run_dir)
    if summary is not None and summary.steps is not None:
        last_step = min(last_step, summary.steps + 1)  # the one that failed was not counted
    with compilation(config.compile):
        origin = find_origin(run, batches, config.train, last_step=last_step)
    if origin is not None:
        return origin
    if first_step > last_step:
        return f"{run_dir} has finished its {last_step} steps: there is none to take again."
    return (
        f"Steps {first_step} to {last_step} of {run_dir} are finite this time. A failure that does "
        "not come back depends on state outside of the checkpoint (in a loss or a data set, say), "
        "or on a GPU without deterministic=true."
    )


def _go_back(run: RunState, last: Path, epochs: int) -> None:
    """Restore the newest checkpoint from before the failure, in a run of so many epochs.

    On an accelerator a checkpoint may be written before the failure is noticed: then the one that
    it replaced, if there is one.
    """
    newest = load_newest(last.parent, run.device)
    if newest is None:
        raise CheckpointError(f"There is no checkpoint in {last.parent} to go back to.")
    restore(run, newest, last, epochs)
    if wrong_parameter(run.model) is not None:
        previous = previous_of(last)
        with suppress(CheckpointError):
            restore(run, load_checkpoint(previous, run.device), previous, epochs)
