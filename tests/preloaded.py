"""What a run imports, for :mod:`tests.forked`."""

import gc

import hydra
import hydra._internal.hydra
import torch
import torch._dynamo

import rotograd_cli.cli
import rotograd_cli.commands.sweeps.cells
import rotograd_cli.runs.experiment

gc.freeze()  # the processes need not look at what these made

__all__ = ["hydra", "rotograd_cli", "torch"]
