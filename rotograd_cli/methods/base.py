"""The class of all methods, under its old path."""

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ExtraOutputs

__all__ = ["ExtraOutputs", "MultiTaskMethod"]
