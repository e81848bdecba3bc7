"""Data sets of torch's map style, the user's own."""

from rotograd_cli.data.torch_datasets.dataset import TorchDatasets
from rotograd_cli.data.torch_datasets.per_task import PerTaskDatasets

__all__ = ["PerTaskDatasets", "TorchDatasets"]
