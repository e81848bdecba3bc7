"""Tasks: their losses, metrics and labels."""

from rotograd_cli.tasks.task import Task, select_tasks

__all__ = ["Task", "select_tasks"]
