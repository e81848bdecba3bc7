"""Errors a user can cause and mend.

Every message is one line that names the thing, the requirement, the value found and the remedy. The
command line prints that line and exits with code 2; a program that imports the package catches
either :class:`RotogradError` or the builtin that each class extends.
"""


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
    """A loss became infinite or NaN, and training cannot go on."""


class BackwardError(RotogradError, RuntimeError):
    """``backward`` was called in a state in which there is nothing to differentiate."""
