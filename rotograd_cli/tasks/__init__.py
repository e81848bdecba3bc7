"""Tasks: their losses, metrics and labels."""

from rotograd_cli.tasks.task import Task, always_labelled, select_tasks

__all__ = ["Task", "always_labelled", "select_tasks"]
