"""What a run imports, for :mod:`tests.forked`."""

import hydra
import hydra._internal.hydra
import sklearn.datasets
import torch
import torch._dynamo
import torchmetrics.classification

import rotograd_cli.cli
import rotograd_cli.experiment
import rotograd_cli.replay
import rotograd_cli.sweep

__all__ = ["hydra", "rotograd_cli", "sklearn", "torch", "torchmetrics"]
