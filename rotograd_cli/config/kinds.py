"""Which class a component must have in each place of a configuration."""

from collections.abc import Mapping
from types import UnionType

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Rule
from rotograd_cli.tracking.base import Tracker

Kind = type | UnionType
_NETWORK = (nn.Module, "a network of this package, torch.nn or torchvision.models")
_OPTIMIZER = (Optimizer, "an optimiser of torch.optim")
_SCHEDULE = (LRScheduler, "a schedule of torch.optim.lr_scheduler")
_KINDS: Mapping[str, tuple[Kind, str]] = {
    "data": (MultiTaskDataset, "a data set of this package"),
    "method": (MultiTaskMethod | Rule, "a method of this package"),
    "method.rule": (Rule, "a rule of this package"),
    "model_optimizer": _OPTIMIZER,
    "method_optimizer": _OPTIMIZER,
    "model_scheduler.scheduler": _SCHEDULE,
    "method_scheduler.scheduler": _SCHEDULE,
    "logger": (Tracker, "a logger of this package"),
}
"""By place; backbone, heads and what a component holds are networks, and `data` holds data sets."""


def kind_of(where: str) -> tuple[Kind, str]:
    """Return class and name of what a place of the configuration needs."""
    if where.startswith("data.datasets."):
        return _KINDS["data"]
    return _KINDS.get(where, _NETWORK)
