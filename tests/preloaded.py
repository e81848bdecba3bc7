"""What a run imports, for :mod:`tests.forked`."""

import hydra
import hydra._internal.hydra
import sklearn.datasets
import torch
import torch._dynamo

import rotograd_cli.cli
import rotograd_cli.commands.sweeps.cells
import rotograd_cli.runs.experiment

__all__ = ["hydra", "rotograd_cli", "sklearn", "torch"]
