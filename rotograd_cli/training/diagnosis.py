"""``debug=nonfinite``: from a checkpoint to the step that is not finite, and where that began."""

from collections.abc import Sequence
from contextlib import suppress

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.nonfinite import fault_of_data, watched, wrong_parameter
from rotograd_cli.training.options import TrainOptions
from rotograd_cli.training.precision import Snapshot
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.stepper import Stepper


def find_origin(
    run: RunState, batches: EpochBatches, options: TrainOptions, *, last_step: int
) -> str | None:
    """Train on until a step is not finite; nothing is evaluated, recorded or saved.

    Args:
        run: The run as a checkpoint has it; trained here.
        batches: Those of the run.
        options: Those of the run; steps that it would skip are not.
        last_step: Step (from 1) to end with.

    Returns:
        Task, step, and the module or parameter where it began; None if all steps are finite.
    """
    stepper = Stepper(run, batches, options, check_finite=True)
    origin = wrong_parameter(run.model)
    if origin is not None:
        return f"Before step {run.state.step + 1}: the checkpoint has the {origin}."
    while run.state.step < last_step:
        run.model.train()
        for micro_batches in batches.steps(run.state.epoch, run.state.batch):
            origin = _try_step(run, batches, stepper, micro_batches)
            if origin is not None or run.state.step == last_step:
                return origin
        run.end_epoch()
    return None


def _try_step(
    run: RunState, batches: EpochBatches, stepper: Stepper, micro_batches: Sequence[Batch]
) -> str | None:
    step = run.state.step + 1
    before = Snapshot(run.model)
    try:
        stepper.attempt(micro_batches)
    except NonFiniteError as error:
        before.restore()
        fault = fault_of_data(error, run, batches, micro_batches)
        with watched(run.model) as findings, suppress(NonFiniteError):
            stepper.attempt(micro_batches)
        return f"{error} in step {step}. {fault or _first(findings)}"
    origin = wrong_parameter(run.model)
    if origin is not None:
        return f"The update of step {step} is not finite: {origin}."
    run.model.refresh()
    run.end_step()
    return None


def _first(findings: Sequence[str]) -> str:
    if findings:
        return f"It began in the {findings[0]}."
    return "All outputs of modules are finite, and all gradients that autograd sets."
