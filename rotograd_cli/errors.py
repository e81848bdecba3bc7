"""Errors a user can cause and mend.

Every message is one line that names the thing, the requirement, the value found and the remedy. The
command line prints that line and exits with code 2; a program that imports the package catches
either :class:`RotogradError` or the builtin that each class extends.
"""

from collections.abc import Mapping


class RotogradError(Exception):
    """Base class of every error that is the input's fault, never the program's."""


class ConfigError(RotogradError, ValueError):
    """A configuration value is missing, unknown or out of range."""


class ShapeError(RotogradError, ValueError):
    """A tensor does not have the shape that the mathematics needs."""


class DatasetError(RotogradError, OSError):
    """A data file is missing, incomplete or corrupt."""


class CheckpointError(RotogradError, RuntimeError):
    """A checkpoint is missing, corrupt or belongs to another model."""


class NonFiniteError(RotogradError, ArithmeticError):
    """A loss or a gradient became infinite or NaN, and training cannot go on.

    Args:
        message: The line.
        losses: Task losses of the step by name, as far as they are known.
        gradients: Norm of the gradient of every parameter by name, as far as they are known.
        step: The step that failed, from 1; None where it is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        losses: Mapping[str, float] | None = None,
        gradients: Mapping[str, float] | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message)
        self.losses, self.gradients, self.step = dict(losses or {}), dict(gradients or {}), step


class SelectionError(RotogradError, ArithmeticError):
    """No epoch of a run can be selected: the selection value was never finite, or cannot rank."""


class BackwardError(RotogradError, RuntimeError):
    """``backward`` was called in a state in which there is nothing to differentiate."""


class RankError(RotogradError, RuntimeError):
    """The processes that train one model together cannot, or do not hold the same model."""
